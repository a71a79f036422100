//! Fetching a model: list, compare with the cache, download what is missing, check it, point to it.
//!
//! In:  a [`RepoName`]. Out: a [`Snapshot`] in the cache.
//! Not here: the requests (`client`), the layout of the cache (`cache`), which files (`listing`).

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use conjoin_core::{Interrupted, Progress, Stop};

use crate::{
    cache::RepoCache,
    checksum,
    client::{Bytes, Client, RemoteFile},
    config::HubConfig,
    error::{HubError, HubErrorKind},
    listing::Sibling,
    name::RepoName,
};

/// Progress counts in these.
const MEGABYTE: u64 = 1_000_000;

/// Between looks at a request to stop.
const GLANCE: Duration = Duration::from_millis(50);

/// A hub of models, and the cache of what was fetched from it.
#[derive(Debug, Clone)]
pub struct Hub {
    config: HubConfig,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder with the model's files.
    pub folder: PathBuf,
    /// The commit they are of.
    pub commit: String,
}

/// What a download needs to know.
struct Fetching<'a> {
    client: &'a Client,
    cache: &'a RepoCache,
    repo: &'a RepoName,
    commit: &'a str,
    config: &'a HubConfig,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

/// How far all files of a model are, in bytes.
struct Meter<'a> {
    progress: &'a dyn Progress,
    stage: String,
    before: u64,
    total: u64,
}

impl Hub {
    /// A hub with these settings. No connection is opened yet.
    #[must_use]
    pub fn new(config: HubConfig) -> Self {
        Self { config }
    }

    /// The model's files, from the cache where they are there and up to date, else downloaded. An
    /// interrupted download goes on where it stopped. Without a network, what the cache holds is used,
    /// with a warning.
    ///
    /// # Errors
    /// [`HubError`]: the name, the network, the permission, a file that is not what the hub says, or
    /// [`HubErrorKind::Interrupted`].
    pub fn fetch(
        &self,
        repo: &RepoName,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Snapshot, HubError> {
        let cache = RepoCache::new(&self.config.cache, repo);
        let found = if self.config.offline {
            cached(&cache, repo)
        } else {
            self.online(&cache, repo, (progress, stop)).or_else(|error| {
                if !matches!(error, HubErrorKind::Unreachable { .. } | HubErrorKind::Busy { .. }) {
                    return Err(error);
                }
                // What the cache lacks matters less than why it was needed.
                let snapshot = cached(&cache, repo).map_err(|_| error)?;
                let (hub, commit) = (&self.config.endpoint, &snapshot.commit);
                progress.warn(&format!(
                    "`{hub}` does not answer; `{repo}` is taken from the cache, commit {commit}"
                ));
                Ok(snapshot)
            })
        };
        found.map_err(|kind| HubError { name: repo.to_string(), kind })
    }

    /// The model's files in the cache, without a look at the hub.
    ///
    /// # Errors
    /// [`HubError`] when the cache does not hold them, or holds a part.
    pub fn cached(&self, repo: &RepoName) -> Result<Snapshot, HubError> {
        cached(&RepoCache::new(&self.config.cache, repo), repo)
            .map_err(|kind| HubError { name: repo.to_string(), kind })
    }

    fn online(
        &self,
        cache: &RepoCache,
        repo: &RepoName,
        (progress, stop): (&dyn Progress, &Stop),
    ) -> Result<Snapshot, HubErrorKind> {
        let client = Client::new(&self.config)?;
        // A network that is not there is told at once.
        let listing = self.retry(stop, HubErrorKind::is_busy, || 0, || client.listing(repo))?;
        let commit = listing.commit.clone();
        let files = listing.model_files()?;
        let folder = cache.snapshot(&commit);
        let missing: Vec<Sibling> =
            files.into_iter().filter(|file| !folder.join(&file.path).exists()).collect();
        if !missing.is_empty() {
            let (commit, config) = (commit.as_str(), &self.config);
            let fetching =
                Fetching { client: &client, cache, repo, commit, config, progress, stop };
            fetching.all(self, &missing)?;
        }
        cache.set_commit(repo.revision(), &commit)?;
        Ok(Snapshot { folder, commit })
    }

    /// Tries again after a pause while the error is of the kind that passes. `mark` tells how far the
    /// work is: as long as it grows, patience does not end.
    fn retry<T>(
        &self,
        stop: &Stop,
        passes: fn(&HubErrorKind) -> bool,
        mark: impl Fn() -> u64,
        mut work: impl FnMut() -> Result<T, HubErrorKind>,
    ) -> Result<T, HubErrorKind> {
        let mut pauses = self.config.waits.retries.iter();
        loop {
            stop.check()?;
            let before = mark();
            let error = match work() {
                Ok(done) => return Ok(done),
                Err(error) if passes(&error) => error,
                Err(error) => return Err(error),
            };
            if mark() > before {
                pauses = self.config.waits.retries.iter();
            }
            let Some(length) = pauses.next() else { return Err(error) };
            pause(*length, stop)?;
        }
    }
}

impl Fetching<'_> {
    /// Downloads files, the small ones first.
    fn all(&self, hub: &Hub, files: &[Sibling]) -> Result<(), HubErrorKind> {
        let mut remote = Vec::with_capacity(files.len());
        for file in files {
            let describe = || self.client.describe(self.repo, self.commit, file);
            remote.push(hub.retry(self.stop, HubErrorKind::is_transient, || 0, describe)?);
        }
        remote.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
        let total = remote.iter().map(|file| file.size).sum();
        let stage = format!("{} (MB)", self.repo);
        let mut meter = Meter { progress: self.progress, stage, before: 0, total };
        for file in &remote {
            self.one(hub, file, &meter)?;
            self.cache.point(self.commit, &file.path, &file.etag)?;
            meter.before += file.size;
        }
        let (n, folder) = (remote.len(), self.cache.snapshot(self.commit));
        let summary = format!("{n} files in `{}`", folder.display());
        self.progress.finish(&meter.stage, &summary);
        Ok(())
    }

    /// Brings one file's blob into the cache.
    fn one(&self, hub: &Hub, file: &RemoteFile, meter: &Meter<'_>) -> Result<(), HubErrorKind> {
        let blob = self.cache.blob(&file.etag);
        if blob.exists() {
            return Ok(());
        }
        let wait = self.config.waits.lock;
        let _lock = self.cache.lock(&file.etag, wait, (self.progress, self.stop))?;
        if blob.exists() {
            return Ok(());
        }
        let part = self.cache.incomplete(&file.etag);
        let length = || fs_err::metadata(&part).map_or(0, |facts| facts.len());
        hub.retry(self.stop, HubErrorKind::is_transient, length, || self.append(file, meter))?;
        let found = checksum::of_file(&part, &file.etag)?;
        if found != file.etag {
            fs_err::remove_file(&part)?;
            let (file, expected) = (file.path.clone(), file.etag.clone());
            return Err(HubErrorKind::Checksum { file, found, expected });
        }
        Ok(fs_err::rename(part, blob)?)
    }

    /// Downloads what is missing at the end of a blob.
    fn append(&self, file: &RemoteFile, meter: &Meter<'_>) -> Result<(), HubErrorKind> {
        let path = self.cache.incomplete(&file.etag);
        let mut part =
            fs_err::OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
        let mut length = part.metadata()?.len();
        if length > file.size {
            part.set_len(0)?;
            length = 0;
        }
        if length < file.size {
            let Bytes { start, mut reader } =
                self.client.read(self.repo, self.commit, file, length)?;
            part.set_len(start)?;
            part.seek(SeekFrom::Start(start))?;
            self.copy(file, start, (&mut reader, &mut part), meter)?;
        }
        Ok(part.sync_all()?)
    }

    fn copy(
        &self,
        file: &RemoteFile,
        start: u64,
        (from, to): (&mut dyn Read, &mut fs_err::File),
        meter: &Meter<'_>,
    ) -> Result<(), HubErrorKind> {
        let mut done = start;
        let mut buffer = vec![0; 1 << 16];
        let dropped = |source| HubErrorKind::Dropped { file: file.path.clone(), source };
        meter.show(done, &file.path);
        loop {
            self.stop.check()?;
            let n = from.read(&mut buffer).map_err(dropped)?;
            done += n as u64;
            if done > file.size {
                fs_err::remove_file(to.path())?;
                let (file, expected) = (file.path.clone(), file.size);
                return Err(HubErrorKind::Size { file, found: done, expected });
            }
            if n == 0 {
                break;
            }
            to.write_all(&buffer[..n])?;
            meter.show(done, &file.path);
        }
        if done < file.size {
            let text = format!("it ended after {done} of {} bytes", file.size);
            return Err(dropped(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text)));
        }
        Ok(())
    }
}

impl Meter<'_> {
    fn show(&self, done: u64, file: &str) {
        let done = (self.before + done) / MEGABYTE;
        self.progress.update(&self.stage, done, Some(self.total.div_ceil(MEGABYTE)), file);
    }
}

fn cached(cache: &RepoCache, repo: &RepoName) -> Result<Snapshot, HubErrorKind> {
    let commit = cache.commit_of(repo.revision())?.filter(|commit| cache.snapshot(commit).is_dir());
    let Some(commit) = commit else {
        return Err(HubErrorKind::Offline { cache: cache.folder().to_owned() });
    };
    let folder = cache.snapshot(&commit);
    match cache.lacks(&commit)? {
        Some(missing) => Err(HubErrorKind::Incomplete { snapshot: folder, missing }),
        None => Ok(Snapshot { folder, commit }),
    }
}

/// Sleeps, unless a stop is requested.
pub(crate) fn pause(length: Duration, stop: &Stop) -> Result<(), Interrupted> {
    let begun = Instant::now();
    loop {
        stop.check()?;
        let Some(left) = length.checked_sub(begun.elapsed()) else { return Ok(()) };
        std::thread::sleep(left.min(GLANCE));
    }
}
