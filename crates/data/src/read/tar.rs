//! WebDataset shards: tar archives whose entries of one sample stand next to each other.
//!
//! In:  a `.tar` or `.tar.gz`; `KEY.jpg|jpeg|png|webp|gif`, `KEY.json`, `KEY.txt`. The key ends at the first
//!      dot of the file name. Out: one record a sample; the text file is the field `text`.
//! Not here: other extensions (they are skipped), decoding.

use std::{
    io::{self, Read},
    ops::ControlFlow,
    path::Path,
};

use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::{Event, Sink, Source, json, lines};
use crate::{
    error::ReadError,
    record::{ImageSource, RawRecord, Reason, Reject},
};

/// The field that a sample's or a picture's `.txt` becomes.
pub(super) const TEXT_FIELD: &str = "text";
/// Names longer than this are not ours to read.
pub(crate) const MAX_NAME_BYTES: u64 = 1 << 16;

pub(super) fn read(
    path: &Path,
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    let reader = lines::open(path).map_err(|e| ReadError::io(path, e))?;
    let mut samples = Samples { source, sink, row: 0, current: None };
    match samples.read(Archive::new(reader)) {
        Ok(flow) => Ok(flow),
        Err(error) if lines::is_damage(&error) => {
            // The sample in hand may lack parts that the damage took.
            let id = samples.current.take().map(|sample| sample.key);
            let place = source.place(samples.row + 1);
            let reason = Reason::Damaged(error);
            Ok((samples.sink)(Event::Reject(Reject { place, id, reason })))
        }
        Err(error) => Err(ReadError::io(path, error)),
    }
}

/// Gathers neighbouring entries into samples.
struct Samples<'a, 's> {
    source: &'a Source<'a>,
    sink: &'a mut Sink<'s>,
    row: u64,
    current: Option<Sample>,
}

struct Sample {
    key: String,
    fields: Vec<(String, String)>,
    image: Option<Vec<u8>>,
    fault: Option<Reason>,
}

impl Samples<'_, '_> {
    fn read(&mut self, mut archive: Archive<Box<dyn io::BufRead>>) -> io::Result<ControlFlow<()>> {
        let mut long_name = None;
        // Raw entries: names of untrusted length are read here, with a limit.
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            if kind == EntryType::GNULongName {
                long_name = Some(gnu_name(&short(&mut entry)?));
            } else if kind == EntryType::XHeader {
                long_name = pax_name(&short(&mut entry)?)?.or(long_name);
            } else if kind == EntryType::Regular || kind == EntryType::Continuous {
                let name = long_name.take().unwrap_or_else(|| header_name(&entry));
                if self.add(&name, &mut entry)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            } else if kind != EntryType::GNULongLink && kind != EntryType::XGlobalHeader {
                long_name = None;
            }
        }
        Ok(self.flush())
    }

    fn add(&mut self, name: &str, entry: &mut Entry<'_, impl Read>) -> io::Result<ControlFlow<()>> {
        let Some((key, extension)) = split_name(name) else {
            return Ok(ControlFlow::Continue(()));
        };
        let kind = match extension.to_ascii_lowercase().as_str() {
            extension if is_image(extension) => Part::Image,
            "json" => Part::Json,
            "txt" => Part::Text,
            _ => return Ok(ControlFlow::Continue(())),
        };
        if self.current.as_ref().is_none_or(|sample| sample.key != key) {
            if self.flush().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let key = key.to_owned();
            self.current = Some(Sample { key, fields: vec![], image: None, fault: None });
        }
        let sample = self.current.as_mut().expect("set just above");
        let limit = self.source.limits.entry_bytes;
        if entry.size() > limit as u64 {
            let (entry, found) = (name.to_owned(), entry.size());
            sample.fault.get_or_insert(Reason::EntryTooLarge { entry, found, limit });
            return Ok(ControlFlow::Continue(()));
        }
        let bytes = read_whole(entry)?;
        sample.take(kind, bytes, self.source);
        Ok(ControlFlow::Continue(()))
    }

    /// Hands the sample in hand over.
    fn flush(&mut self) -> ControlFlow<()> {
        let Some(sample) = self.current.take() else { return ControlFlow::Continue(()) };
        self.row += 1;
        let place = self.source.place(self.row);
        let event = match sample.fault {
            Some(reason) => Event::Reject(Reject { place, id: Some(sample.key), reason }),
            None => self.source.checked(RawRecord {
                place,
                key: Some(sample.key),
                fields: sample.fields,
                image: sample.image.map(ImageSource::Bytes),
            }),
        };
        (self.sink)(event)
    }
}

#[derive(Clone, Copy)]
enum Part {
    Image,
    Json,
    Text,
}

impl Sample {
    fn take(&mut self, part: Part, bytes: Vec<u8>, source: &Source<'_>) {
        let fields = match part {
            Part::Image => {
                self.image.get_or_insert(bytes);
                return;
            }
            Part::Json => json::fields(&bytes, source.limits),
            Part::Text => text_field(bytes),
        };
        match fields {
            Ok(fields) => self.fields.extend(fields),
            Err(reason) => {
                self.fault.get_or_insert(reason);
            }
        }
    }
}

/// A text file as a field.
pub(super) fn text_field(bytes: Vec<u8>) -> Result<Vec<(String, String)>, Reason> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(vec![(TEXT_FIELD.to_owned(), text)]),
        Err(error) => {
            let byte = error.utf8_error().valid_up_to() + 1;
            Err(Reason::NotUtf8 { part: "the text".to_owned(), byte })
        }
    }
}

/// Whether a file of this extension, in lower case, is a picture.
pub(crate) fn is_image(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "webp", "gif"].contains(&extension)
}

/// `dir/key.ext` -> (`dir/key`, `ext`); `None` for hidden files and names without an extension.
pub(crate) fn split_name(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name[file..].find('.')?;
    (dot > 0).then(|| (&name[..file + dot], &name[file + dot + 1..]))
}

/// All of an entry, whose size was checked; an archive that ends inside it is an error.
fn read_whole(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < entry.size() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the archive ends inside an entry",
        ));
    }
    Ok(bytes)
}

fn short(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.size() > MAX_NAME_BYTES {
        let text = format!("an entry's name has {} bytes", entry.size());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    read_whole(entry)
}

fn header_name(entry: &Entry<'_, impl Read>) -> String {
    String::from_utf8_lossy(&entry.path_bytes()).into_owned()
}

/// The name of the entry that follows, of a GNU extension's content.
pub(crate) fn gnu_name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// The same of a POSIX extension, if it gives a name.
pub(crate) fn pax_name(bytes: &[u8]) -> io::Result<Option<String>> {
    let mut name = None;
    for extension in PaxExtensions::new(bytes) {
        let extension = extension?;
        if extension.key_bytes() == b"path" {
            name = Some(String::from_utf8_lossy(extension.value_bytes()).into_owned());
        }
    }
    Ok(name)
}
