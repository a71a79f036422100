//! One repository's place in the cache that all of the hub's libraries share.
//!
//! ```text
//! CACHE/models--owner--name/blobs/ETAG                       the bytes of a file
//! CACHE/models--owner--name/blobs/ETAG.incomplete            as many of them as have come
//! CACHE/models--owner--name/snapshots/COMMIT/FILE   ->       ../../blobs/ETAG
//! CACHE/models--owner--name/refs/REVISION                    the commit it stood for when last seen
//! CACHE/.locks/models--owner--name/ETAG.lock                 held while a blob is written
//! ```
//!
//! In:  a repository's name. Out: paths, pointers, references, locks.
//! Not here: the network.
//! Source: `huggingface_hub/file_download.py`, version 1.33. A reference is written last here, so one
//! that is there after a download of ours names a whole snapshot.

use std::{
    fs::TryLockError,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conjoin_core::{Progress, Stop};
use serde::Deserialize;

use crate::{
    checksum::is_commit, error::HubErrorKind, hub::pause, listing::is_inside, name::RepoName,
};

const INDEX_END: &str = ".safetensors.index.json";

/// A repository's folders in the cache.
#[derive(Debug)]
pub(crate) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

/// Held while a blob is written; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(
    #[expect(dead_code, reason = "closing the file releases the lock")] fs_err::File,
);

/// The part of a sharded model's index that is read here.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &RepoName) -> Self {
        let name = format!("models--{}", repo.id().replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(&name) }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit a revision stood for when it was last fetched.
    pub(crate) fn commit_of(&self, revision: &str) -> io::Result<Option<String>> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        match fs_err::read_to_string(self.folder.join("refs").join(revision)) {
            Ok(commit) => Ok(Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers what a revision stands for. A cache that is up to date is not written to.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> io::Result<()> {
        if self.commit_of(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        let file = self.folder.join("refs").join(revision);
        let parent = file.parent().expect("a reference is in a folder");
        fs_err::create_dir_all(parent)?;
        let fresh = beside(&file);
        fs_err::write(&fresh, commit)?;
        fs_err::rename(fresh, file)
    }

    /// Puts a blob into a snapshot under the file's name.
    pub(crate) fn point(&self, commit: &str, file: &str, etag: &str) -> io::Result<()> {
        let pointer = self.snapshot(commit).join(file);
        let parent = pointer.parent().expect("a file of a snapshot is in a folder");
        fs_err::create_dir_all(parent)?;
        let fresh = beside(&pointer);
        let up = "../".repeat(2 + file.matches('/').count());
        link(&self.blob(etag), &format!("{up}blobs/{etag}"), &fresh)?;
        fs_err::rename(fresh, pointer)
    }

    /// The first file that a snapshot can be seen to lack, `None` when all seems to be there: weights,
    /// and all shards that an index names.
    pub(crate) fn lacks(&self, commit: &str) -> io::Result<Option<String>> {
        let snapshot = self.snapshot(commit);
        let mut has_weights = false;
        for entry in fs_err::read_dir(&snapshot)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let path = snapshot.join(&name);
            if name.ends_with(INDEX_END) && path.exists() {
                let bytes = fs_err::read(&path)?;
                // A damaged index is told of by those who read the model.
                let Ok(index) = serde_json::from_slice::<ShardIndex>(&bytes) else { continue };
                let is_missing =
                    |shard: &&String| is_inside(shard) && !snapshot.join(shard).exists();
                if let Some(shard) = index.weight_map.values().find(is_missing) {
                    return Ok(Some(shard.clone()));
                }
            }
            has_weights |= name.ends_with(".safetensors") && path.exists();
        }
        Ok((!has_weights).then(|| "*.safetensors".to_owned()))
    }

    /// Waits until no other process writes this blob. Python's library takes the same lock.
    pub(crate) fn lock(
        &self,
        etag: &str,
        wait: Duration,
        (progress, stop): (&dyn Progress, &Stop),
    ) -> Result<Lock, HubErrorKind> {
        fs_err::create_dir_all(&self.locks)?;
        fs_err::create_dir_all(self.folder.join("blobs"))?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        let mut is_told = false;
        loop {
            match file.file().try_lock() {
                Ok(()) => return Ok(Lock(file)),
                // A file system without locks: the checksum still tells a mixed-up file.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Lock(file));
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut is_told, true) {
                        progress.warn("another process downloads the same file; waiting for it");
                    }
                    pause(wait, stop)?;
                }
            }
        }
    }
}

/// A name beside a file that nobody else uses. The number of the process alone would not do: threads
/// share it, and processes of two containers with one cache often have the same.
fn beside(file: &Path) -> PathBuf {
    static N_NAMES: AtomicU64 = AtomicU64::new(0);
    let name = file.file_name().expect("files have names").to_string_lossy();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let n = N_NAMES.fetch_add(1, Ordering::Relaxed);
    file.with_file_name(format!(".{name}.{}-{nanos:x}-{n}.tmp", std::process::id()))
}

#[cfg(unix)]
fn link(_blob: &Path, relative: &str, pointer: &Path) -> io::Result<()> {
    fs_err::os::unix::fs::symlink(relative, pointer)
}

/// Where links need rights of their own, a snapshot holds copies, as Python's library does it.
#[cfg(not(unix))]
fn link(blob: &Path, _relative: &str, pointer: &Path) -> io::Result<()> {
    fs_err::copy(blob, pointer).map(|_| ())
}
