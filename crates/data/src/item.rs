//! One item of a dataset, as stored in `items.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One item: its texts, its picture and the rest of its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Unique in the dataset.
    pub id: String,
    /// Items of equal group are relevant to each other and never in different splits, unless the source's own
    /// split says so.
    pub group: String,
    /// Which part of the dataset it belongs to.
    pub split: Split,
    /// `(field, text)` in the order of the text columns; a list field gives several. Never blank.
    pub texts: Vec<(String, String)>,
    /// Where its picture is.
    pub image: Option<BlobRef>,
    /// The other fields of its row; the values of a list are joined by `", "`.
    pub payload: BTreeMap<String, String>,
}

/// The part of a dataset an item belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure on.
    Val,
}

impl Split {
    /// The name used in files and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }

    /// The split a catalogue's word means; `None` for an unknown word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word.trim().to_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" | "eval" | "test" | "testing" => Some(Self::Val),
            _ => None,
        }
    }

    /// The split that a tar shard's file name begins with (`train-0000.tar`, `val_1.tar.gz`, `test.tar`).
    ///
    /// The name must begin with a split's word, followed by `-`, `_` or `.`. Other files tell none: a table
    /// called `test.csv` need not be held out.
    #[must_use]
    pub fn from_shard_name(file_name: &str) -> Option<Self> {
        let name = file_name.to_lowercase();
        let is_shard = [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end));
        let (word, _) = name.split_once(['-', '_', '.']).filter(|_| is_shard)?;
        Self::from_word(word)
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The position of a picture's untouched bytes in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// Number of the shard.
    pub shard: u32,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// SHA-256 of the bytes, in hexadecimal; checked at every reading.
    pub sha256: String,
}
