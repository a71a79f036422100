//! How many samples each shard has.
//!
//! In:  shards. Out: a count each, from the first of these that tells: `sizes.json` in the shard's folder (a number
//!      by file name, as WebDataset and open_clip use it), `NAME_stats.json` beside it (`successes`, as img2dataset
//!      writes it), the shard itself, whose headers are then gone through once.
//! Counts beside the shards are believed: what a shard has less is a bad sample each, what it has more is not read.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use conjoin_core::{Progress, Stop};
use rayon::prelude::*;
use serde::Deserialize;

use super::{captions::Caption, samples::Samples};
use crate::{Limits, ShardsErrorKind, positioned::PositionedFile};

const SIZES_FILE: &str = "sizes.json";
/// Room for the names of a million shards.
const MAX_SIZES_BYTES: u64 = 64 << 20;

/// The name under which counting is told.
const STAGE: &str = "shards";

pub(super) fn count(
    shards: &[&Path],
    (progress, stop): (&dyn Progress, &Stop),
) -> Result<Vec<u32>, ShardsErrorKind> {
    let sizes = sizes(shards)?;
    let (n_shards, n_counted) = (shards.len(), AtomicU64::new(0));
    let count = |shard: &&Path| {
        let listed = || sizes.get(shard.parent()?)?.get(shard.file_name()?.to_str()?).copied();
        if let Some(n) = listed().map_or_else(|| stats(shard), |n| Ok(Some(n)))? {
            return Ok(n);
        }
        stop.check()?;
        let n = counted(shard)?;
        let done = n_counted.fetch_add(1, Ordering::Relaxed) + 1;
        progress.update(STAGE, done, Some(n_shards as u64), "counting samples");
        Ok(n)
    };
    let counts: Vec<u32> = shards.par_iter().map(count).collect::<Result<_, ShardsErrorKind>>()?;
    let n_counted = n_counted.into_inner();
    if n_counted > 0 {
        let n: u64 = counts.iter().map(|n| u64::from(*n)).sum();
        progress.finish(STAGE, &format!("{n} samples in {n_shards}, {n_counted} of them counted"));
    }
    Ok(counts)
}

/// What `sizes.json` says, by folder.
fn sizes(shards: &[&Path]) -> Result<BTreeMap<PathBuf, BTreeMap<String, u32>>, ShardsErrorKind> {
    let mut sizes = BTreeMap::new();
    for folder in shards.iter().filter_map(|shard| shard.parent()) {
        if !sizes.contains_key(folder) {
            let found = json(&folder.join(SIZES_FILE))?.unwrap_or_default();
            sizes.insert(folder.to_owned(), found);
        }
    }
    Ok(sizes)
}

/// What the file beside a shard says.
fn stats(shard: &Path) -> Result<Option<u32>, ShardsErrorKind> {
    #[derive(Deserialize)]
    struct Stats {
        successes: u32,
    }
    let stem = shard.file_stem().unwrap_or_default().to_string_lossy();
    let stats = json::<Stats>(&shard.with_file_name(format!("{stem}_stats.json")))?;
    Ok(stats.map(|stats| stats.successes))
}

/// Goes through a shard's headers.
fn counted(shard: &Path) -> io::Result<u32> {
    let mut samples = Samples::new(PositionedFile::open(shard)?);
    let (caption, limits) = (Caption::new(""), Limits::default());
    let mut n = 0;
    while samples.next(&caption, &limits)?.is_some() {
        n += 1;
    }
    Ok(n)
}

/// A small JSON file; `None` where there is none.
fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ShardsErrorKind> {
    let file = match fs_err::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZES_BYTES).read_to_end(&mut bytes)?;
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|source| ShardsErrorKind::Counts { path: path.to_owned(), source })
}
