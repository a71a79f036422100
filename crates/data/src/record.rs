//! One row of a raw catalogue, and why a row or a part of it is not used.
//!
//! In:  what a reader found. Out: [`RawRecord`], or a [`Reject`] with its [`Reason`].
//! Not here: reading (`read`), judging content (`filter`).

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use crate::error::ImageFault;

/// A row as a reader found it: nothing is judged, nothing is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Where it stands.
    pub place: Place,
    /// The name the format itself gives it (a WebDataset key, a file's path), if any.
    pub key: Option<String>,
    /// Its fields in the order of the source; a list gives one entry per element.
    pub fields: Vec<(String, String)>,
    /// The picture the format itself attaches, if any. A path in a field is not resolved here.
    pub image: Option<ImageSource>,
}

impl RawRecord {
    /// The first value of a field, trimmed; `None` when absent or blank.
    #[must_use]
    pub fn value(&self, field: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == field)?;
        let value = value.trim();
        (!value.is_empty()).then_some(value)
    }
}

/// Where the bytes of a picture are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A file to be read.
    File(PathBuf),
    /// The encoded bytes themselves.
    Bytes(Vec<u8>),
}

/// The position of a row, as its user would count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file name of the input.
    pub input: Arc<str>,
    /// The line of a text catalogue (a CSV header is line 1), else the number of the record, from 1.
    pub row: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} of `{}`", self.row, self.input)
    }
}

/// A row, or a part of it, that is not used.
#[derive(Debug)]
pub struct Reject {
    /// The row.
    pub place: Place,
    /// Its id, where one is known.
    pub id: Option<String>,
    /// Why.
    pub reason: Reason,
}

/// The rows of a source that are not used: how many of which kind, and the first ones.
#[derive(Debug, Default)]
pub struct Rejects {
    first: Vec<Reject>,
    n: u64,
    reasons: BTreeMap<&'static str, u64>,
}

impl Rejects {
    /// How many are kept word for word.
    pub const MAX_KEPT: usize = 100;

    /// The first ones, at most [`Self::MAX_KEPT`].
    #[must_use]
    pub fn first(&self) -> &[Reject] {
        &self.first
    }

    /// How many there are in all.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// How many there are of each kind, by its stable word.
    #[must_use]
    pub fn reasons(&self) -> &BTreeMap<&'static str, u64> {
        &self.reasons
    }

    pub(crate) fn add(&mut self, reject: Reject) {
        self.n += 1;
        *self.reasons.entry(reject.reason.kind()).or_default() += 1;
        if self.first.len() < Self::MAX_KEPT {
            self.first.push(reject);
        }
    }

    /// Adds those of another file.
    pub(crate) fn append(&mut self, other: Self) {
        self.n += other.n;
        for (kind, n) in other.reasons {
            *self.reasons.entry(kind).or_default() += n;
        }
        let room = Self::MAX_KEPT - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }
}

/// Why a row, or a part of it, is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A line or a CSV record is longer than allowed.
    #[error("the line has more than {limit} bytes")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A field is longer than allowed.
    #[error("field `{field}` has {found} bytes, the limit is {limit}")]
    FieldTooLong {
        /// The field.
        field: String,
        /// Its length in bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The text is not UTF-8.
    #[error("{part} is not UTF-8 (byte {byte})")]
    NotUtf8 {
        /// The field, or the line.
        part: String,
        /// Position of the first bad byte, from 1.
        byte: usize,
    },
    /// A quoted CSV field does not end, or something follows its closing quote.
    #[error("broken quoting in column {column}")]
    Quoting {
        /// The column, from 1.
        column: usize,
    },
    /// A CSV row has another number of fields than the header.
    #[error("the row has {found} fields, the header has {expected}")]
    Ragged {
        /// Fields found.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A JSON record does not parse.
    #[error("not a JSON object")]
    Json(#[source] serde_json::Error),
    /// A JSON record is nested too deeply.
    #[error("the JSON is nested more than {limit} deep")]
    JsonDepth {
        /// The limit.
        limit: usize,
    },
    /// A tar entry is larger than allowed.
    #[error("entry `{entry}` has {found} bytes, the limit is {limit}")]
    EntryTooLarge {
        /// Name of the entry.
        entry: String,
        /// Its size in bytes.
        found: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// The rest of an archive or compressed file cannot be read.
    #[error("the file is damaged from here on")]
    Damaged(#[source] std::io::Error),
    /// A run of rows of a Parquet file cannot be read.
    #[error("the next {rows} rows cannot be read")]
    Parquet {
        /// How many rows are lost.
        rows: u64,
        /// The reader's error.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// No text field has text.
    #[error("no text in the text columns")]
    EmptyText,
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageFault),
    /// The id was seen before.
    #[error("the id is already used by {first}")]
    DuplicateId {
        /// The row that has it.
        first: Place,
    },
    /// The same content was seen before.
    #[error("the row equals {first}")]
    DuplicateRow {
        /// The row it equals.
        first: Place,
    },
    /// The split column has a word that names no split.
    #[error("`{word}` names no split (train, val, validation, dev or test)")]
    UnknownSplit {
        /// The word.
        word: String,
    },
    /// A text that a training row needs is blank.
    #[error("field `{field}` is blank")]
    BlankField {
        /// The field.
        field: String,
    },
    /// A field that should hold one text holds something else.
    #[error("field `{field}` is {found}, expected a text")]
    NotText {
        /// The field.
        field: String,
        /// What it holds.
        found: &'static str,
    },
    /// A grade or a score is no finite number.
    #[error("field `{field}` is `{found}`, expected a number")]
    NotANumber {
        /// The field.
        field: String,
        /// Its text, shortened.
        found: String,
    },
    /// A training row has fewer negatives than all rows need.
    #[error("the row has {found} negatives, {expected} are needed (`n_negatives` sets the number)")]
    TooFewNegatives {
        /// Negatives found.
        found: usize,
        /// Negatives needed.
        expected: usize,
    },
    /// A training row has fewer teacher scores than texts.
    #[error(
        "the row has {found} scores, {expected} are needed: of the document, then of each negative"
    )]
    TooFewScores {
        /// Scores found.
        found: usize,
        /// Scores needed.
        expected: usize,
    },
    /// A judgement is of an item that the items' file has no usable row of.
    #[error("no usable row has item `{item}`")]
    UnknownItem {
        /// The item's id, shortened.
        item: String,
    },
    /// A shard has fewer samples than a file beside it says.
    #[error("the shard ends before this sample, though it should have {n}")]
    MissingSample {
        /// Samples that it should have.
        n: u32,
    },
    /// The item is in `val` while its group is also in `train`.
    #[error("group `{group}` is in train and in val")]
    Straddling {
        /// The group.
        group: String,
    },
}

impl Reason {
    /// The stable word counted and stored for this kind of reason.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LineTooLong { .. } => "line_too_long",
            Self::FieldTooLong { .. } => "field_too_long",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::Quoting { .. } => "broken_quoting",
            Self::Ragged { .. } => "ragged_row",
            Self::Json(_) => "bad_json",
            Self::JsonDepth { .. } => "json_too_deep",
            Self::EntryTooLarge { .. } => "entry_too_large",
            Self::Damaged(_) | Self::Parquet { .. } => "damaged_file",
            Self::EmptyText => "empty_text",
            Self::Image(fault) => fault.kind(),
            Self::DuplicateId { .. } => "duplicate_id",
            Self::DuplicateRow { .. } => "duplicate_row",
            Self::UnknownSplit { .. } => "unknown_split",
            Self::BlankField { .. } => "blank_field",
            Self::NotText { .. } => "not_text",
            Self::NotANumber { .. } => "not_a_number",
            Self::TooFewNegatives { .. } => "too_few_negatives",
            Self::TooFewScores { .. } => "too_few_scores",
            Self::UnknownItem { .. } => "unknown_item",
            Self::MissingSample { .. } => "missing_sample",
            Self::Straddling { .. } => "straddling_group",
        }
    }

    /// The reason with its causes, in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text.replace('\n', " ")
    }
}
