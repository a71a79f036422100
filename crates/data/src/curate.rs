//! Raw catalogues to a dataset artefact.
//!
//! In:  [`CurateConfig`]: catalogues, which columns mean what, limits, split. Out: the artefact of
//!      `docs/format/dataset.md`, and a [`CurateSummary`].
//! Not here: the single judgements (`filter`), the file formats (`read`), who is held out (`split`).
//!
//! The same inputs, configuration and seed give the same bytes, wherever the files are. Pictures are held
//! for one batch only; texts of all items are held, as they are by [`crate::Dataset`].

mod manifest;
mod pass;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use conjoin_core::{ArtifactWriter, Progress, Seed, Stop, hash_bytes};
use serde::{Deserialize, Serialize};

use crate::{
    Columns, Limits,
    dataset::DATASET_FORMAT,
    error::{CurateError, ReadError},
    read::{self, Event},
};

/// How many records are looked at to learn the columns of a format that declares none.
pub(crate) const PEEK_RECORDS: usize = 1024;

/// What to curate and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurateConfig {
    /// Catalogues: files or folders, read in this order.
    pub inputs: Vec<PathBuf>,
    /// The dataset's folder; an older dataset there is replaced, anything else is not.
    pub output: PathBuf,
    /// The folder that image paths are relative to and must stay in; by default the catalogue's own.
    #[serde(default)]
    pub image_root: Option<PathBuf>,
    /// Which columns mean what.
    pub columns: Columns,
    /// Share of the groups held out where the source gives no split, 0 to 1.
    #[serde(default = "default_val_fraction")]
    pub val_fraction: f64,
    /// Decides which groups are held out.
    #[serde(default = "default_seed")]
    pub seed: Seed,
    /// Sizes beyond which a record is rejected.
    #[serde(default)]
    pub limits: Limits,
    /// Bytes a shard should not exceed; a larger sample gets a shard of its own.
    #[serde(default = "default_shard_bytes")]
    pub shard_bytes: u64,
}

fn default_val_fraction() -> f64 {
    0.1
}

fn default_seed() -> Seed {
    Seed(0)
}

fn default_shard_bytes() -> u64 {
    256 << 20
}

impl CurateConfig {
    /// The given inputs, output and columns, and defaults for the rest.
    #[must_use]
    pub fn new(inputs: Vec<PathBuf>, output: PathBuf, columns: Columns) -> Self {
        Self {
            inputs,
            output,
            image_root: None,
            columns,
            val_fraction: default_val_fraction(),
            seed: default_seed(),
            limits: Limits::default(),
            shard_bytes: default_shard_bytes(),
        }
    }

    fn check(&self) -> Result<(), CurateError> {
        let fault = |key, found: String, expected| CurateError::Config { key, found, expected };
        if self.inputs.is_empty() {
            return Err(fault("inputs", "empty".to_owned(), "at least one catalogue"));
        }
        if !(0.0..=1.0).contains(&self.val_fraction) {
            let found = self.val_fraction.to_string();
            return Err(fault("val_fraction", found, "a number from 0 to 1"));
        }
        if self.shard_bytes == 0 {
            return Err(fault("shard_bytes", "0".to_owned(), "at least 1"));
        }
        Ok(())
    }

    /// SHA-256 of all settings but the places of the files.
    fn hash(&self) -> String {
        let settings =
            Self { inputs: vec![], output: PathBuf::new(), image_root: None, ..self.clone() };
        hash_bytes(&serde_json::to_vec(&settings).expect("settings are plain data"))
    }

    /// The absolute folder that image paths of an input are relative to.
    fn root_of(&self, input: &Path) -> std::io::Result<PathBuf> {
        let own = if input.is_dir() { Some(input) } else { input.parent() };
        let own = own.filter(|folder| !folder.as_os_str().is_empty());
        std::path::absolute(self.image_root.as_deref().or(own).unwrap_or(Path::new(".")))
    }
}

/// What a curation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurateSummary {
    /// Rows seen, rejected ones included.
    pub n_rows: u64,
    /// Items made.
    pub n_items: u64,
    /// Items to learn from.
    pub n_train: u64,
    /// Items held out.
    pub n_val: u64,
    /// Items with an image.
    pub n_images: u64,
    /// Different groups.
    pub n_groups: u64,
    /// Rows that became no item.
    pub n_rejected: u64,
    /// Items that a part is missing of, or that stand in `rejects.jsonl` for another reason.
    pub n_warned: u64,
    /// How often each reason occurred, by its stable word; a row may have several.
    pub reasons: BTreeMap<String, u64>,
    /// Held-out items whose group is also in train, because the source says so.
    pub n_straddling: u64,
    /// Shards written.
    pub n_shards: u32,
    /// SHA-256 of the dataset's manifest.
    pub manifest_hash: String,
}

/// Makes a dataset.
///
/// Bad rows and pictures cost themselves and stand in `rejects.jsonl`; only what concerns a whole input is
/// an error. A requested stop leaves the output as it was.
///
/// # Errors
/// When a setting is out of range, an input cannot be read or lacks a named column, no row is usable,
/// the output cannot be written or is something else than a dataset, or a stop was requested.
pub fn curate(
    config: &CurateConfig,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<CurateSummary, CurateError> {
    config.check()?;
    let artifact = ArtifactWriter::create(&config.output, DATASET_FORMAT)?;
    let mut pass = pass::Pass::start(config, &artifact, progress, stop)?;
    for input in &config.inputs {
        pass.read(input)?;
    }
    let (manifest, mut summary) = pass.finish()?;
    stop.check()?;
    summary.manifest_hash = artifact.commit(manifest)?.manifest().hash();
    Ok(summary)
}

/// The columns of a catalogue: those it declares, else those of its first records.
///
/// # Errors
/// When the catalogue cannot be read.
pub fn columns_of(input: &Path, limits: &Limits) -> Result<Vec<String>, ReadError> {
    let mut columns: Vec<String> = Vec::new();
    let mut n_seen = 0;
    let flow = read::read(input, limits, None, &mut |event| {
        n_seen += 1;
        match event {
            Event::Columns { names, .. } => {
                columns = names;
                return ControlFlow::Break(());
            }
            Event::Record(record) => add_new(&mut columns, record.fields.iter().map(|(n, _)| n)),
            Event::Reject(_) => {}
        }
        if n_seen < PEEK_RECORDS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    flow.map(|_| columns)
}

/// Appends the names that are new.
fn add_new<'a>(columns: &mut Vec<String>, names: impl Iterator<Item = &'a String>) {
    for name in names {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
}

#[cfg(test)]
mod tests;
