//! Why a catalogue could not be read, curated, or opened as a dataset.
//!
//! Not here: why a single row is not used (`record`).

use std::path::{Path, PathBuf};

use conjoin_core::{ArtifactError, ArtifactErrorKind, Interrupted};
use conjoin_input::ImageError;

use crate::read::{ACCEPTED, TEXT_FILES_ACCEPTED};

/// Why a catalogue could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read catalogue `{}`", path.display())]
pub struct ReadError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: ReadErrorKind,
}

impl ReadError {
    pub(crate) fn io(path: &Path, error: std::io::Error) -> Self {
        Self { path: path.to_owned(), kind: error.into() }
    }
}

/// What is wrong with a catalogue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadErrorKind {
    /// The system refused; the error names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Neither the content nor the name tells a format that is read.
    #[error("unknown format; accepted are {ACCEPTED}")]
    UnknownFormat,
    /// A text catalogue is UTF-16.
    #[error("the text is UTF-16, UTF-8 is needed")]
    Utf16,
    /// There is no header.
    #[error("the file is empty")]
    Empty,
    /// The header line cannot be read.
    #[error("the header cannot be read: {reason}")]
    Header {
        /// Why.
        reason: String,
    },
    /// Two columns of one name.
    #[error("column `{name}` is there twice")]
    RepeatedColumn {
        /// The name.
        name: String,
    },
    /// The Parquet footer cannot be read.
    #[error("not a readable Parquet file")]
    Parquet(#[source] parquet::errors::ParquetError),
}

/// A column that was named and does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingColumn {
    /// What it was named for (`text`, `image`, `id`, `group`, `split`).
    pub role: &'static str,
    /// Its name.
    pub name: String,
    /// The closest name that exists.
    pub closest: Option<String>,
}

/// Columns were named that the catalogue does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnsError {
    /// The missing columns.
    pub missing: Vec<MissingColumn>,
    /// The columns that exist.
    pub found: Vec<String>,
}

impl std::error::Error for ColumnsError {}

impl std::fmt::Display for ColumnsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, column) in self.missing.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}no column `{}` for the {}", column.name, column.role)?;
            if let Some(closest) = &column.closest {
                write!(f, ", did you mean `{closest}`?")?;
            }
        }
        write!(f, "; found are {}", self.found.join(", "))
    }
}

/// Why the image of a row cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageFault {
    /// The row has none.
    #[error("no image")]
    None,
    /// It is somewhere on a network.
    #[error("`{url}` is not downloaded")]
    NotDownloaded {
        /// The address.
        url: String,
    },
    /// The path leads out of the folder the images must be in.
    #[error("`{path}` leads out of the image folder")]
    Outside {
        /// The path as written.
        path: String,
    },
    /// There is no such file.
    #[error("there is no file `{path}`")]
    Missing {
        /// The path as written.
        path: String,
    },
    /// The file cannot be read.
    #[error("the image file cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// The bytes are no image that can be used.
    #[error("the image cannot be used")]
    Decode(#[source] ImageError),
    /// The decoder broke down on the bytes.
    #[error("the image cannot be used: its decoder broke down")]
    Panicked,
}

impl ImageFault {
    /// The stable word for this kind of fault.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "no_image",
            Self::NotDownloaded { .. } => "image_not_downloaded",
            Self::Outside { .. } => "image_outside_folder",
            Self::Missing { .. } => "image_file_missing",
            Self::Unreadable(_) => "image_unreadable",
            Self::Panicked => "image_broken",
            Self::Decode(error) => match error {
                ImageError::FileTooLarge { .. } => "image_too_large",
                ImageError::SideTooLong { .. }
                | ImageError::TooManyPixels { .. }
                | ImageError::NoPixels { .. } => "image_dimensions",
                ImageError::UnknownFormat => "image_unknown_format",
                ImageError::CutOff { .. } => "image_truncated",
                ImageError::PixelCount { .. } | ImageError::Decode { .. } | _ => "image_broken",
            },
        }
    }
}

/// Why a catalogue could not be curated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurateError {
    /// A setting is out of its range.
    #[error("`{key}` is {found}, expected {expected}")]
    Config {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// An input cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An input lacks columns.
    #[error("catalogue `{}` has other columns", input.display())]
    Columns {
        /// The input.
        input: PathBuf,
        /// Which are missing.
        #[source]
        source: ColumnsError,
    },
    /// No row can be used.
    #[error("no usable row among {n_rows} of {}{}", named(inputs), listed(reasons))]
    NothingUsable {
        /// The inputs.
        inputs: Vec<PathBuf>,
        /// Rows seen.
        n_rows: u64,
        /// How often each reason occurred, by its stable word.
        reasons: Vec<(String, u64)>,
    },
    /// The artefact cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A file cannot be written; the error names it.
    #[error("cannot write the dataset")]
    Write(#[source] std::io::Error),
    /// A stop was requested; nothing is left behind.
    #[error("the curation was stopped")]
    Interrupted(#[from] Interrupted),
}

fn named(inputs: &[PathBuf]) -> String {
    inputs.iter().map(|input| format!("`{}`", input.display())).collect::<Vec<_>>().join(", ")
}

fn listed(reasons: &[(String, u64)]) -> String {
    let parts: Vec<String> = reasons.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

/// Why a dataset could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open dataset `{}`", path.display())]
pub struct OpenError {
    /// The folder.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: OpenErrorKind,
}

/// What is wrong with a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// It is no artefact of ours, or too new.
    #[error(transparent)]
    Artifact(ArtifactErrorKind),
    /// A file could not be read; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file the format needs is not in the manifest.
    #[error("the manifest lists no `{file}`")]
    NotListed {
        /// The file.
        file: String,
    },
    /// The items are not those the manifest was written for.
    #[error("`{file}` has hash {found}, the manifest says {expected}")]
    Hash {
        /// The file.
        file: String,
        /// Hash found.
        found: String,
        /// Hash in the manifest.
        expected: String,
    },
    /// A line of the items is no item.
    #[error("line {line} of the items is not an item")]
    Item {
        /// The line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An image would lie behind the end of its shard.
    #[error("the image of item `{id}` ends at byte {end} of shard {shard}, which has {found}")]
    OutOfShard {
        /// The item.
        id: String,
        /// The shard.
        shard: u32,
        /// Where the image would end.
        end: u64,
        /// Bytes of the shard; 0 when there is no such shard.
        found: u64,
    },
}

impl From<ArtifactError> for OpenErrorKind {
    fn from(error: ArtifactError) -> Self {
        // The place is told by [`OpenError`].
        Self::Artifact(error.kind)
    }
}

/// Why an image of a dataset could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the image of item `{id}`")]
pub struct BlobError {
    /// The item.
    pub id: String,
    /// What is wrong.
    #[source]
    pub kind: BlobErrorKind,
}

/// What is wrong with an image of a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobErrorKind {
    /// The item has no image.
    #[error("it has none")]
    None,
    /// The item is of another dataset.
    #[error("there is no shard {shard}")]
    NoShard {
        /// The shard.
        shard: u32,
    },
    /// The shard could not be read; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are not those that were stored.
    #[error("shard {shard} is damaged: the bytes have hash {found}, expected {expected}")]
    Hash {
        /// The shard.
        shard: u32,
        /// Hash found.
        found: String,
        /// Hash stored.
        expected: String,
    },
}

/// Why a file of training texts could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot read training texts `{}`", path.display())]
pub struct TextFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: TextFileErrorKind,
}

/// What is wrong with a file of training texts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextFileErrorKind {
    /// It cannot be read, or its header makes no sense.
    #[error(transparent)]
    Read(#[from] ReadErrorKind),
    /// It lacks columns.
    #[error(transparent)]
    Columns(#[from] ColumnsError),
    /// It is of a format that has no rows to be read by position.
    #[error("it is {found}; accepted are {TEXT_FILES_ACCEPTED}")]
    Format {
        /// What it is.
        found: &'static str,
    },
    /// Some columns are given by name, others by position.
    #[error(
        "column `{name}` is given by name and column {position} by position: name all (the file has \
         a header) or number all from 0 (it has none)"
    )]
    MixedColumns {
        /// One given by name.
        name: String,
        /// One given by position.
        position: usize,
    },
    /// A column of JSON or Parquet is given by position.
    #[error("the file's columns have names, one is given by position {position}; give its name")]
    PositionOfNamed {
        /// The position.
        position: usize,
    },
    /// A compressed file is too large.
    #[error(
        "it unpacks to more than {limit} bytes; if it may be that large, unpack it beforehand or \
         raise the limit `unpacked_bytes`"
    )]
    UnpackedTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A setting is out of its range.
    #[error("`{key}` is {found}, expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// No row can be used.
    #[error("no usable row among {n_rows}{}", listed(reasons))]
    NothingUsable {
        /// Rows seen, of the wanted split.
        n_rows: u64,
        /// How often each reason occurred, by its stable word.
        reasons: Vec<(String, u64)>,
    },
}

impl From<std::io::Error> for TextFileErrorKind {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error.into())
    }
}

/// Why a row that was usable when its file was opened could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read row {row} of `{input}`")]
pub struct TextRowError {
    /// The file's name.
    pub input: String,
    /// The row, from 0, among the usable ones.
    pub row: usize,
    /// What is wrong.
    #[source]
    pub kind: TextRowErrorKind,
}

/// What is wrong with a row of training texts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextRowErrorKind {
    /// The system refused; the error names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// There is no such row.
    #[error("there are {n_rows} rows, counted from 0")]
    NoRow {
        /// Usable rows.
        n_rows: usize,
    },
    /// Its bytes are not those that were there when the file was opened.
    #[error("the file was changed since it was opened; start again with the file as it is now")]
    Changed,
}

/// Why shards could not be streamed.
#[derive(Debug, thiserror::Error)]
#[error("cannot stream shards `{}`", path.display())]
pub struct ShardsError {
    /// The pattern, or the shard.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub kind: ShardsErrorKind,
}

/// What is wrong with shards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardsErrorKind {
    /// The system refused; the error names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Braces that are none of ours.
    #[error("`{found}` is no range like {{00000..41455}} and no list like {{a,b}}")]
    Braces {
        /// From the brace on.
        found: String,
    },
    /// More shards than anyone has.
    #[error("it stands for more than {limit} shards")]
    TooManyShards {
        /// The most there may be.
        limit: usize,
    },
    /// Nothing fits the pattern.
    #[error("there is no shard")]
    NoShards,
    /// Not all are there.
    #[error("{} of {n} shards are missing: {}", missing.len(), first_of(missing))]
    Missing {
        /// Those that are not there.
        missing: Vec<PathBuf>,
        /// How many there should be.
        n: usize,
    },
    /// Nothing can be skipped in a compressed shard.
    #[error("`{}` is compressed; shards are streamed as plain .tar", path.display())]
    Compressed {
        /// The first of them.
        path: PathBuf,
    },
    /// A setting is out of its range.
    #[error("`{key}` is {found}, expected 1 or more, up to 2^32")]
    Setting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
    },
    /// A file with counts is not what it should be.
    #[error("`{}` does not say how many samples shards have", path.display())]
    Counts {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A stop was requested.
    #[error("counting their samples was stopped")]
    Interrupted(#[from] Interrupted),
    /// All shards are empty.
    #[error("there is no sample in {n_shards} shards")]
    NoSamples {
        /// How many there are.
        n_shards: usize,
    },
}

/// Names that are told of many.
const MAX_NAMED: usize = 8;

fn first_of(paths: &[PathBuf]) -> String {
    let more = if paths.len() > MAX_NAMED { ", …" } else { "" };
    named(&paths[..paths.len().min(MAX_NAMED)]) + more
}
