//! What a dataset's manifest says of its making.
//!
//! In:  settings, hashes of inputs, counts. Out: the [`Manifest`].

use std::{collections::BTreeMap, io, path::Path};

use conjoin_core::{Manifest, hash_bytes, hash_file};
use serde_json::{Value, json};

use super::{CurateConfig, CurateSummary};
use crate::{
    dataset::{DATASET_FORMAT, DATASET_VERSION},
    read::{self, FolderContents},
};

/// The manifest of a curation; hashes of files are filled in on commit.
pub(super) fn manifest(
    config: &CurateConfig,
    inputs: BTreeMap<String, String>,
    summary: &CurateSummary,
) -> Manifest {
    let mut manifest = Manifest::new(DATASET_FORMAT, DATASET_VERSION);
    manifest.config_hash = config.hash();
    manifest.seed = Some(config.seed.0);
    manifest.inputs = inputs;
    let facts: [(&str, Value); 12] = [
        ("n_rows", json!(summary.n_rows)),
        ("n_items", json!(summary.n_items)),
        ("n_train", json!(summary.n_train)),
        ("n_val", json!(summary.n_val)),
        ("n_images", json!(summary.n_images)),
        ("n_groups", json!(summary.n_groups)),
        ("n_rejected", json!(summary.n_rejected)),
        ("n_warned", json!(summary.n_warned)),
        ("n_straddling", json!(summary.n_straddling)),
        ("n_shards", json!(summary.n_shards)),
        ("reasons", json!(summary.reasons)),
        ("columns", json!(config.columns)),
    ];
    manifest.facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    manifest
}

/// What identifies an input: its own hash, that of each file of a folder, or, for a folder of pictures, of the
/// list of their names and sizes (their contents are in the dataset itself).
pub(super) fn input_hashes(input: &Path) -> io::Result<Vec<(String, String)>> {
    if !input.is_dir() {
        return Ok(vec![(read::file_name(input), hash_file(input)?)]);
    }
    match read::folder_contents(input)? {
        FolderContents::Files(files) => {
            files.iter().map(|file| Ok((read::file_name(file), hash_file(file)?))).collect()
        }
        FolderContents::Images(images) => {
            let mut list = String::new();
            for image in &images {
                let name = image.strip_prefix(input).unwrap_or(image);
                let size = fs_err::metadata(image)?.len();
                list.push_str(&format!("{} {size}\n", name.display()));
            }
            Ok(vec![(read::file_name(input), hash_bytes(list.as_bytes()))])
        }
        FolderContents::Nothing => Ok(vec![]),
    }
}
