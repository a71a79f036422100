//! Why an index could not be written or opened: the place, and what is wrong there.

use std::path::{Path, PathBuf};

use conjoin_core::{ArtifactError, ArtifactErrorKind, Modality};

/// Why an index could not be written or opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot use index `{}`", path.display())]
pub struct IndexError {
    /// The folder.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: IndexErrorKind,
}

impl IndexError {
    pub(crate) fn at(path: &Path, kind: impl Into<IndexErrorKind>) -> Self {
        Self { path: path.to_owned(), kind: kind.into() }
    }
}

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexErrorKind {
    /// The folder is not a whole artefact of this kind.
    #[error(transparent)]
    Artifact(ArtifactErrorKind),
    /// A file could not be read or written; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Numbers are stored little-endian and mapped as they are.
    #[error("this machine is big-endian, an index is little-endian")]
    BigEndian,
    /// The header is not of the expected shape.
    #[error("`{file}` is not an index header")]
    Header {
        /// The header's file.
        file: &'static str,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A setting outside its range.
    #[error("`{key}` is {found}, it must be {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// The value found.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// The manifest does not list a file of the format.
    #[error("`{file}` is missing from the manifest")]
    Missing {
        /// The file.
        file: &'static str,
    },
    /// A file has another size than the header asks for.
    #[error("`{file}` has {found} bytes, the header asks for {expected}")]
    Size {
        /// The file.
        file: &'static str,
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// A file is not what the manifest says.
    #[error("`{file}` has hash {found}, the manifest says {expected}")]
    Hash {
        /// The file.
        file: &'static str,
        /// Hash found.
        found: String,
        /// Hash in the manifest.
        expected: String,
    },
    /// Offsets or row numbers that do not rise, or leave their file.
    #[error("`{file}` has an entry out of order or out of range at {position}")]
    Order {
        /// The file.
        file: &'static str,
        /// Position of the entry.
        position: usize,
    },
    /// A line of the items is not an item.
    #[error("item {item} in `items.jsonl` is not an item")]
    Line {
        /// Position of the item.
        item: usize,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// An item that may not be in an index.
    #[error("item `{id}`")]
    Item {
        /// The item's id.
        id: String,
        /// What is wrong with it.
        #[source]
        kind: ItemErrorKind,
    },
    /// An earlier write failed, so the files are not whole.
    #[error("an earlier write failed, the index cannot be committed")]
    Broken,
}

impl From<ArtifactError> for IndexErrorKind {
    fn from(error: ArtifactError) -> Self {
        // The place is told by [`IndexError`].
        Self::Artifact(error.kind)
    }
}

/// What is wrong with an item.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemErrorKind {
    /// An id must name something.
    #[error("the id is empty")]
    EmptyId,
    /// Another item has this id.
    #[error("the id is taken by an earlier item")]
    Duplicate,
    /// Nothing to search by.
    #[error("it has neither a text nor an image part")]
    NoPart,
    /// A vector of another width.
    #[error("its {part} vector has {found} values, the index has width {expected}")]
    Width {
        /// The part.
        part: Modality,
        /// Values found.
        found: usize,
        /// The index's width.
        expected: usize,
    },
    /// A vector with a NaN or an infinity.
    #[error("its {part} vector has a value that is not finite")]
    NotFinite {
        /// The part.
        part: Modality,
    },
    /// A vector that is not of unit length.
    #[error("its {part} vector has length {length}, not 1")]
    NotUnit {
        /// The part.
        part: Modality,
        /// The length found.
        length: f64,
    },
    /// The parts point in opposite directions.
    #[error("its parts cancel each other out, so there is no fused vector")]
    Cancelled,
    /// The index is full.
    #[error("the index has {limit} items, the most it can hold")]
    Full {
        /// The limit.
        limit: usize,
    },
}
