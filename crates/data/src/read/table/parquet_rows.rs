//! The wanted columns of a Parquet file as temporary JSON lines.
//!
//! In:  a path, the columns. Out: an open file that vanishes when it is closed, whose line `n` is row `n`; the
//!      names of all columns; the rows that cannot be read (their lines are blank).

use std::{
    io::{self, BufWriter, Seek, SeekFrom, Write},
    ops::ControlFlow,
    path::Path,
};

use fs_err::File;
use serde_json::{Map, Value};

use super::super::{Event, Source, parquet};
use crate::{
    Limits,
    error::TextFileErrorKind,
    positioned::PositionedFile,
    record::{RawRecord, Reason, Rejects},
};

/// Lost rows that are counted at once; writers put far fewer into a row group, but a damaged file may claim any
/// number.
const MAX_LOST_ROWS: u64 = 1 << 24;

/// What a Parquet file was unpacked to.
pub(super) struct Unpacked {
    pub(super) file: PositionedFile,
    pub(super) names: Vec<String>,
    pub(super) rejects: Rejects,
}

pub(super) fn unpack(
    path: &Path,
    wanted: &[String],
    limits: &Limits,
) -> Result<Unpacked, TextFileErrorKind> {
    let file = File::from_parts(tempfile::tempfile()?, path.to_owned());
    let mut lines = Lines { file: BufWriter::new(file), n_bytes: 0, limit: limits.unpacked_bytes };
    let (mut names, mut rejects) = (vec![], Rejects::default());
    let mut failed = None;
    let read = parquet::read(path, &Source::new(path, limits, None), &mut |event| {
        let written = match event {
            Event::Columns { names: found, .. } => {
                names = found;
                Ok(())
            }
            Event::Record(record) => lines.write(&line_of(record, wanted)),
            Event::Reject(reject) => {
                let n_rows = if let Reason::Parquet { rows, .. } = &reject.reason {
                    (*rows).min(MAX_LOST_ROWS)
                } else {
                    1
                };
                rejects.add(reject);
                (0..n_rows).try_for_each(|_| lines.write(b"\n"))
            }
        };
        failed = written.err();
        if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let _ = read.map_err(|error| error.kind)?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Unpacked { file: lines.finish()?, names, rejects }),
    }
}

/// Lines written so far.
struct Lines {
    file: BufWriter<File>,
    n_bytes: u64,
    limit: u64,
}

impl Lines {
    fn write(&mut self, line: &[u8]) -> Result<(), TextFileErrorKind> {
        self.n_bytes += line.len() as u64;
        if self.n_bytes > self.limit {
            return Err(TextFileErrorKind::UnpackedTooLarge { limit: self.limit });
        }
        Ok(self.file.write_all(line)?)
    }

    fn finish(self) -> io::Result<PositionedFile> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        PositionedFile::of(file)
    }
}

/// A record as one JSON line; a field that comes several times is a list.
fn line_of(record: RawRecord, wanted: &[String]) -> Vec<u8> {
    let mut object: Map<String, Value> = Map::new();
    for (name, text) in record.fields {
        if !wanted.contains(&name) {
            continue;
        }
        match object.get_mut(&name) {
            None => {
                object.insert(name, Value::String(text));
            }
            Some(Value::Array(texts)) => texts.push(Value::String(text)),
            Some(first) => *first = Value::Array(vec![first.take(), Value::String(text)]),
        }
    }
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}
