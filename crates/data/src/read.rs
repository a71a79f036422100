//! Raw catalogues as a stream of records, whatever their format.
//!
//! In:  a file or a folder. Out: [`Event`]s into a sink: the columns where the format knows them, then
//!      records and rejects in the order of the source.
//! Not here: what a record means (`columns`, `filter`), decoding of pictures.

mod csv;
mod detect;
mod folder;
pub(crate) mod json;
mod jsonl;
pub(crate) mod lines;
mod parquet;
pub(crate) mod table;
pub(crate) mod tar;

use std::{ops::ControlFlow, path::Path, sync::Arc};

use crate::{
    error::ReadError,
    limits::Limits,
    record::{Place, RawRecord, Reason, Reject},
};

pub use detect::{ACCEPTED, Delimiter, Format, TEXT_FILES_ACCEPTED};
pub(crate) use folder::{Contents as FolderContents, contents as folder_contents};

/// What a reader tells while it goes through a catalogue.
#[derive(Debug)]
pub enum Event {
    /// The columns, where the format declares them; comes before the first record.
    Columns {
        /// Columns that are read.
        names: Vec<String>,
        /// Columns of a type that is not read.
        ignored: Vec<String>,
    },
    /// A row.
    Record(RawRecord),
    /// A row that cannot be read.
    Reject(Reject),
}

/// Receives events; says whether to go on.
pub type Sink<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// Reads one file, or every file of a folder in the order of their names.
///
/// The formats are told apart by content where that is cheap, else by extension; see [`ACCEPTED`].
/// `image_column` names the binary Parquet column with the picture; without it the first one is taken.
/// Breaks when the sink did.
///
/// # Errors
/// When the file cannot be opened, its format is unknown, or its header makes no sense. Bad rows are no
/// errors: they arrive as [`Event::Reject`].
pub fn read(
    path: &Path,
    limits: &Limits,
    image_column: Option<&str>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    stream(path, &Source::new(path, limits, image_column), sink)
}

fn stream(
    path: &Path,
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    match detect::detect(path)? {
        Format::Csv { delimiter } => csv::read(path, delimiter, source, sink),
        Format::Jsonl => jsonl::read(path, source, sink),
        Format::Parquet => parquet::read(path, source, sink),
        Format::Tar => tar::read(path, source, sink),
        Format::Folder => folder::read(path, source, sink),
    }
}

/// What every reader is given beside its file.
struct Source<'a> {
    input: Arc<str>,
    limits: &'a Limits,
    image_column: Option<&'a str>,
}

impl<'a> Source<'a> {
    fn new(path: &Path, limits: &'a Limits, image_column: Option<&'a str>) -> Self {
        Self { input: file_name(path).into(), limits, image_column }
    }

    fn place(&self, row: u64) -> Place {
        Place { input: Arc::clone(&self.input), row }
    }

    fn reject(&self, row: u64, reason: Reason) -> Event {
        Event::Reject(Reject { place: self.place(row), id: None, reason })
    }

    /// A record without an attached picture, or the reject of its first oversized field.
    fn record(&self, row: u64, fields: Vec<(String, String)>) -> Event {
        let record = RawRecord { place: self.place(row), key: None, fields, image: None };
        self.checked(record)
    }

    fn checked(&self, record: RawRecord) -> Event {
        let limit = self.limits.field_bytes;
        match record.fields.iter().find(|(_, value)| value.len() > limit) {
            None => Event::Record(record),
            Some((field, value)) => {
                let reason =
                    Reason::FieldTooLong { field: field.clone(), found: value.len(), limit };
                Event::Reject(Reject { place: record.place, id: record.key, reason })
            }
        }
    }
}

/// The last part of a path, for messages and manifests.
pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().or_else(|| path.components().next_back().map(|c| c.as_os_str()));
    name.map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
