//! A dataset on disk, opened for training, measuring and indexing.
//!
//! In:  the folder that `curate` made. Out: its items, and any picture by position.
//! Not here: decoding (`conjoin-input`).

use std::path::Path;

use conjoin_core::{Artifact, Manifest, hash_bytes};

use crate::{
    error::{BlobError, BlobErrorKind, OpenError, OpenErrorKind},
    item::{BlobRef, Item, Split},
    positioned::PositionedFile,
    shard::shard_name,
};

/// The artefact's format name.
pub const DATASET_FORMAT: &str = "dataset";
/// The newest version this build reads, and the one it writes.
pub const DATASET_VERSION: u32 = 1;
/// The file with one item a line.
pub(crate) const ITEMS_FILE: &str = "items.jsonl";
/// The file with one unused row, or part of one, a line.
pub(crate) const REJECTS_FILE: &str = "rejects.jsonl";

/// An open dataset.
///
/// The items are in memory, pictures stay on disk. Shared references may read pictures from any number
/// of threads.
#[derive(Debug)]
pub struct Dataset {
    artifact: Artifact,
    items: Vec<Item>,
    fields: Vec<String>,
    shards: Vec<PositionedFile>,
}

impl Dataset {
    /// Opens a dataset and checks its items against the manifest. Pictures are checked when they are read.
    ///
    /// # Errors
    /// When it is no dataset, too new, truncated or changed.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_kind(path).map_err(|kind| OpenError { path: path.to_owned(), kind })
    }

    fn open_kind(path: &Path) -> Result<Self, OpenErrorKind> {
        let artifact = Artifact::open(path, DATASET_FORMAT, DATASET_VERSION)?;
        let items = read_items(&artifact)?;
        let mut shards = Vec::new();
        while artifact.manifest().files.contains_key(&shard_name(shards.len() as u32)) {
            shards.push(PositionedFile::open(&artifact.file(&shard_name(shards.len() as u32)))?);
        }
        for item in &items {
            check_position(item, &shards)?;
        }
        let mut fields: Vec<String> = Vec::new();
        for (field, _) in items.iter().flat_map(|item| &item.texts) {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
        Ok(Self { artifact, items, fields, shards })
    }

    /// All items, in the order of the source.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The items of one split, in the order of the source.
    pub fn iter_split(&self, split: Split) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.split == split)
    }

    /// The names of the text fields, in the order of their first appearance.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// SHA-256 of the manifest: identifies the dataset, content included.
    #[must_use]
    pub fn manifest_hash(&self) -> String {
        self.manifest().hash()
    }

    /// Reads every file and compares it with the manifest.
    ///
    /// # Errors
    /// On the first file that is missing or changed.
    pub fn verify(&self) -> Result<(), OpenError> {
        let fail =
            |e| OpenError { path: self.artifact.path().to_owned(), kind: OpenErrorKind::from(e) };
        self.artifact.verify().map_err(fail)
    }

    /// The encoded bytes of an item's picture, as they came.
    ///
    /// # Errors
    /// When the item has none, or the shard cannot be read or was changed.
    pub fn image_bytes(&self, item: &Item) -> Result<Vec<u8>, BlobError> {
        let fail = |kind| BlobError { id: item.id.clone(), kind };
        let blob = item.image.as_ref().ok_or_else(|| fail(BlobErrorKind::None))?;
        self.blob(blob).map_err(fail)
    }

    fn blob(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobErrorKind> {
        let shard = self.shards.get(blob.shard as usize);
        let shard = shard.ok_or(BlobErrorKind::NoShard { shard: blob.shard })?;
        let bytes = shard.read(blob.offset, blob.length)?;
        let found = hash_bytes(&bytes);
        if found == blob.sha256 {
            return Ok(bytes);
        }
        Err(BlobErrorKind::Hash { shard: blob.shard, found, expected: blob.sha256.clone() })
    }
}

fn read_items(artifact: &Artifact) -> Result<Vec<Item>, OpenErrorKind> {
    let file = ITEMS_FILE.to_owned();
    let Some(expected) = artifact.manifest().files.get(ITEMS_FILE) else {
        return Err(OpenErrorKind::NotListed { file });
    };
    let bytes = fs_err::read(artifact.file(ITEMS_FILE))?;
    let found = hash_bytes(&bytes);
    if found != *expected {
        return Err(OpenErrorKind::Hash { file, found, expected: expected.clone() });
    }
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(at, line)| {
            serde_json::from_slice(line)
                .map_err(|source| OpenErrorKind::Item { line: at + 1, source })
        })
        .collect()
}

fn check_position(item: &Item, shards: &[PositionedFile]) -> Result<(), OpenErrorKind> {
    let Some(blob) = &item.image else { return Ok(()) };
    let found = shards.get(blob.shard as usize).map_or(0, PositionedFile::n_bytes);
    let end = blob.offset.saturating_add(blob.length);
    if end <= found {
        return Ok(());
    }
    Err(OpenErrorKind::OutOfShard { id: item.id.clone(), shard: blob.shard, end, found })
}
