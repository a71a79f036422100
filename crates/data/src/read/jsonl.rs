//! JSON lines: one object a line, plain or gzipped.
//!
//! In:  a path. Out: one record a line that is not blank.

use std::{ops::ControlFlow, path::Path};

use super::{
    Sink, Source, json,
    lines::{self, Lines},
};
use crate::{error::ReadError, record::Reason};

pub(super) fn read(
    path: &Path,
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    let limit = source.limits.line_bytes;
    let mut lines = Lines::open(path, limit).map_err(|e| ReadError::io(path, e))?;
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(error) if lines::is_damage(&error) => {
                return Ok(sink(source.reject(lines.next_number(), Reason::Damaged(error))));
            }
            Err(error) => return Err(ReadError::io(path, error)),
        };
        let fields = match &line.bytes {
            None => Err(Reason::LineTooLong { limit }),
            Some(bytes) if bytes.trim_ascii().is_empty() => continue,
            Some(bytes) => json::fields(lines::trim_end(bytes), source.limits),
        };
        let event = match fields {
            Ok(fields) => source.record(line.number, fields),
            Err(reason) => source.reject(line.number, reason),
        };
        if sink(event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}
