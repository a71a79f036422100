//! Which format a catalogue has: by content where the first bytes tell, else by extension.

use std::path::Path;

use super::lines;
use crate::error::{ReadError, ReadErrorKind};

/// The formats that are read, for messages.
pub const ACCEPTED: &str = ".csv, .tsv, .jsonl, .ndjson (each also .gz), .parquet, .tar, .tar.gz, .tgz, or a folder of these or of images";

/// The formats that training texts are read from, for messages.
pub const TEXT_FILES_ACCEPTED: &str = ".csv, .tsv, .jsonl, .ndjson (each also .gz), .parquet";

/// The format of a catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines of delimited fields under a header.
    Csv {
        /// What stands between fields.
        delimiter: Delimiter,
    },
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// A WebDataset shard.
    Tar,
    /// A folder.
    Folder,
}

/// How the fields of a text catalogue are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimiter {
    /// Comma, semicolon or tab, whichever the header has most of.
    Guess,
    /// Tab.
    Tab,
}

const TAR_MAGIC: std::ops::Range<usize> = 257..262;
const HEAD_BYTES: u64 = 512;

pub(super) fn detect(path: &Path) -> Result<Format, ReadError> {
    let fail = |kind| ReadError { path: path.to_owned(), kind };
    if path.is_dir() {
        return Ok(Format::Folder);
    }
    let head = lines::head(path, HEAD_BYTES).map_err(|e| fail(e.into()))?;
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(fail(ReadErrorKind::Utf16));
    }
    let format = by_content(&head).or_else(|| by_extension(path)).or_else(|| looks_json(&head));
    format.ok_or_else(|| fail(ReadErrorKind::UnknownFormat))
}

fn by_content(head: &[u8]) -> Option<Format> {
    if head.starts_with(b"PAR1") {
        Some(Format::Parquet)
    } else if head.get(TAR_MAGIC).is_some_and(|magic| magic == b"ustar") {
        Some(Format::Tar)
    } else {
        None
    }
}

/// The format a file's name promises.
pub(super) fn by_extension(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let stem = name.strip_suffix(".gz").unwrap_or(&name);
    match stem.rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv { delimiter: Delimiter::Guess }),
        "tsv" | "tab" => Some(Format::Csv { delimiter: Delimiter::Tab }),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "parquet" | "pq" => Some(Format::Parquet),
        "tar" | "tgz" => Some(Format::Tar),
        _ => None,
    }
}

fn looks_json(head: &[u8]) -> Option<Format> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    head.trim_ascii_start().starts_with(b"{").then_some(Format::Jsonl)
}
