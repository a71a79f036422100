//! Pictures with captions for training, streamed from WebDataset shards.
//!
//! In:  tar shards by a pattern, an order's seed, places in that order. Out: [`ShardSample`]s, still encoded,
//!      each place of an epoch another one; bad ones with their [`Reason`].
//! Not here: decoding, tokens, batches; catalogues that are looked up by item (`curate`, `dataset`).
//!
//! Of the data nothing stays in memory but about 100 bytes a shard and the shuffle buffer, which is bounded in samples and
//! in bytes (`stream`). Which sample stands at a place is a pure function of the seed and of the number of samples of
//! each shard (`order`), so there is nothing to save: going on at a place reads the same samples as never
//! having stopped, after reading one buffer and, of the shards that are being read there, the headers before.

mod captions;
mod counts;
mod order;
mod paths;
mod samples;
mod stream;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use conjoin_core::{Progress, Seed, Stop, hash_bytes};
use serde::{Deserialize, Serialize};

use crate::{Limits, Reason, ShardsError, ShardsErrorKind, read::file_name};
use captions::Caption;
use stream::Stream;

/// Which shards are streamed, and how they are shuffled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardsConfig {
    /// Uncompressed tar files: a path with `{00000..41455}`, `{a,b}` or, in the file's name, `*` and `?`; or a
    /// folder, for all `.tar` in it.
    pub path: String,
    /// The file with the caption: an extension (`txt`), or a field of the JSON file (`json.caption`), where a list
    /// has several captions of one picture.
    #[serde(default = "txt")]
    pub text: String,
    /// Samples that are shuffled with each other: the most that wait in memory, still encoded.
    #[serde(default = "shuffle_buffer")]
    pub shuffle_buffer: usize,
    /// Most bytes of them in memory; the places of the others are noted, and they are read when it is their turn.
    #[serde(default = "shuffle_bytes")]
    pub shuffle_bytes: u64,
    /// Shards that are read in turns, a sample of each.
    #[serde(default = "interleave")]
    pub interleave: usize,
}

fn txt() -> String {
    "txt".to_owned()
}

/// As many as in open_clip (`_SAMPLE_SHUFFLE_SIZE`).
fn shuffle_buffer() -> usize {
    5000
}

fn shuffle_bytes() -> u64 {
    1 << 30
}

fn interleave() -> usize {
    8
}

impl ShardsConfig {
    /// Shards with captions in text files, shuffled as by default.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: txt(),
            shuffle_buffer: shuffle_buffer(),
            shuffle_bytes: shuffle_bytes(),
            interleave: interleave(),
        }
    }

    /// All shards there should be, by name. They are not looked at.
    ///
    /// # Errors
    /// When the pattern makes no sense, a folder in it cannot be read, or there is no shard.
    pub fn paths(&self) -> Result<Vec<PathBuf>, ShardsError> {
        paths::expand(&self.path).map_err(|kind| self.error(kind))
    }

    /// Passes when all shards are there and every setting is in its range.
    ///
    /// # Errors
    /// As [`Self::paths`]; with the shards that are missing, the compressed one, the setting.
    pub fn check(&self) -> Result<(), ShardsError> {
        self.found().map(|_| ())
    }

    /// The shards with their lengths in bytes.
    fn found(&self) -> Result<Vec<(PathBuf, u64)>, ShardsError> {
        let expected = |key, found: String| ShardsErrorKind::Setting { key, found };
        if self.shuffle_buffer == 0 || u32::try_from(self.shuffle_buffer).is_err() {
            let found = self.shuffle_buffer.to_string();
            return Err(self.error(expected("shuffle_buffer", found)));
        }
        if self.interleave == 0 {
            return Err(self.error(expected("interleave", "0".to_owned())));
        }
        paths::with_lengths(self.paths()?).map_err(|kind| self.error(kind))
    }

    fn error(&self, kind: ShardsErrorKind) -> ShardsError {
        ShardsError { path: PathBuf::from(&self.path), kind }
    }
}

/// A shard and how many samples it has.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    n_samples: u32,
}

/// Open shards.
#[derive(Debug)]
pub struct Shards {
    config: ShardsConfig,
    limits: Limits,
    caption: Caption,
    shards: Vec<Shard>,
    len: usize,
    fingerprint: String,
    /// Where reading is; only saves time.
    stream: Mutex<Option<Stream>>,
}

/// A sample as it lies in its shard.
#[derive(Debug)]
pub struct ShardSample {
    /// `SHARD:KEY`, with the shard's file name.
    pub id: String,
    /// Its files, or why they cannot be used.
    pub content: Result<ShardContent, Reason>,
}

/// The files of a sample that are used, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardContent {
    /// The encoded picture.
    pub image: Vec<u8>,
    /// The file with the caption.
    pub text: Vec<u8>,
}

impl Shards {
    /// Finds the shards and counts their samples: by `sizes.json` or `NAME_stats.json` beside them where there is
    /// one, else by going through their headers, which takes long where there are many.
    ///
    /// # Errors
    /// When shards are missing, compressed or cannot be read, a setting is out of its range, or there is no
    /// sample; when a stop was requested. Bad samples are no errors.
    pub fn open(
        config: &ShardsConfig,
        limits: &Limits,
        watch: (&dyn Progress, &Stop),
    ) -> Result<Self, ShardsError> {
        let fail = |kind| config.error(kind);
        let found = config.found()?;
        let paths: Vec<&Path> = found.iter().map(|(path, _)| path.as_path()).collect();
        let counts = counts::count(&paths, watch).map_err(fail)?;
        let fingerprint = fingerprint(config, limits, (&found, &counts));
        let len = counts.iter().map(|n| *n as usize).sum();
        if len == 0 {
            return Err(fail(ShardsErrorKind::NoSamples { n_shards: counts.len() }));
        }
        let shard = |((path, _), n_samples)| Shard { path, n_samples };
        Ok(Self {
            config: config.clone(),
            limits: limits.clone(),
            caption: Caption::new(&config.text),
            shards: found.into_iter().zip(counts).map(shard).collect(),
            len,
            fingerprint,
            stream: Mutex::default(),
        })
    }

    /// Number of samples, bad ones among them.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "shards without a sample do not open")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Hash of the shards' names, lengths and numbers of samples, and of the settings. What is in the shards is not
    /// hashed: that would read all of them.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The samples at places of an epoch's order, which follows from `order` alone. Places that follow those of
    /// the call before are read on from there, any others after a search of at most one buffer.
    ///
    /// # Errors
    /// When a shard can no longer be read. What is wrong with a sample stands in it.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn draw(&self, order: Seed, places: &[usize]) -> Result<Vec<ShardSample>, ShardsError> {
        // What a panic leaves behind is thrown away.
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut going = stream.take().filter(|stream| stream.seed() == order);
        let current = going.get_or_insert_with(|| Stream::new(self, order));
        let drawn: Result<Vec<_>, _> =
            places.iter().map(|place| current.draw(self, *place as u64)).collect();
        // After an error it is read anew.
        *stream = if drawn.is_ok() { going } else { None };
        drawn
    }

    /// The captions of a sample, trimmed; at least one, none of them blank.
    ///
    /// # Errors
    /// When there is none, or it is no text.
    pub fn captions(&self, content: &ShardContent) -> Result<Vec<String>, Reason> {
        self.caption.texts(&content.text, &self.limits)
    }
}

/// Equal ones give equal samples, as long as nobody rewrites a shard at its length.
fn fingerprint(
    config: &ShardsConfig,
    limits: &Limits,
    (found, counts): (&[(PathBuf, u64)], &[u32]),
) -> String {
    let listed = found.iter().zip(counts).map(|((path, n_bytes), n)| (file_name(path), n_bytes, n));
    // Where the shards lie does not matter, and neither do the bytes that wait.
    let config = ShardsConfig { path: String::new(), shuffle_bytes: 0, ..config.clone() };
    let settings = (listed.collect::<Vec<_>>(), config, limits);
    hash_bytes(&serde_json::to_vec(&settings).expect("settings are plain data"))
}

#[cfg(test)]
mod tests;
