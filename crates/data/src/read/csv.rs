//! CSV and TSV with a header line, plain or gzipped.
//!
//! In:  a path and a delimiter. Out: one record a row; a broken row costs itself only.
//!
//! Quoting is read strictly: a quoted field ends at a quote before a delimiter or a line end. When a
//! record does not close, closes wrongly, or spans lines without giving the header's number of fields,
//! its first line is rejected and reading resumes at the next one. So a stray quote does not
//! swallow the rows below it.

use std::{collections::VecDeque, io, ops::ControlFlow, path::Path};

use super::{
    Event, Sink, Source,
    detect::Delimiter,
    lines::{self, Line, Lines},
};
use crate::{
    error::{ReadError, ReadErrorKind},
    record::Reason,
};

pub(super) fn read(
    path: &Path,
    delimiter: Delimiter,
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    let fail = |kind| ReadError { path: path.to_owned(), kind };
    let mut rows = Rows::open(path, source.limits.line_bytes).map_err(|e| fail(e.into()))?;
    let header = rows.header(delimiter).map_err(fail)?;
    if sink(Event::Columns { names: header.clone(), ignored: vec![] }).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    loop {
        let event = match rows.next(header.len()) {
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Ok(Some((row, fields))) => match fields.and_then(|f| to_text(&header, f)) {
                Ok(fields) => source.record(row, fields),
                Err(reason) => source.reject(row, reason),
            },
            Err(error) if lines::is_damage(&error) => {
                let row = rows.lines.next_number();
                return Ok(sink(source.reject(row, Reason::Damaged(error))));
            }
            Err(error) => return Err(fail(error.into())),
        };
        if sink(event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

fn to_text(header: &[String], fields: Vec<Vec<u8>>) -> Result<Vec<(String, String)>, Reason> {
    let pairs = header.iter().zip(fields);
    pairs
        .map(|(name, bytes)| match String::from_utf8(bytes) {
            Ok(text) => Ok((name.clone(), text)),
            Err(error) => {
                let byte = error.utf8_error().valid_up_to() + 1;
                Err(Reason::NotUtf8 { part: format!("field `{name}`"), byte })
            }
        })
        .collect()
}

type Fields = Result<Vec<Vec<u8>>, Reason>;

/// The records of a file, with the lines read ahead but not used yet.
struct Rows {
    lines: Lines,
    ahead: VecDeque<Line>,
    delimiter: u8,
    max_bytes: usize,
}

impl Rows {
    fn open(path: &Path, max_bytes: usize) -> io::Result<Self> {
        let lines = Lines::open(path, max_bytes)?;
        Ok(Self { lines, ahead: VecDeque::new(), delimiter: b',', max_bytes })
    }

    /// Reads the header and settles the delimiter.
    fn header(&mut self, delimiter: Delimiter) -> Result<Vec<String>, ReadErrorKind> {
        let first = self.next_line()?.ok_or(ReadErrorKind::Empty)?;
        self.delimiter = match (delimiter, &first.bytes) {
            (Delimiter::Tab, _) => b'\t',
            (Delimiter::Guess, Some(line)) => guess_delimiter(line),
            (Delimiter::Guess, None) => b',',
        };
        self.ahead.push_front(first);
        let (_, fields) = self.next_record(None)?.ok_or(ReadErrorKind::Empty)?;
        let fields = fields.map_err(|r| ReadErrorKind::Header { reason: r.sentence() })?;
        let names: Vec<String> =
            fields.iter().map(|f| String::from_utf8_lossy(f).trim().to_owned()).collect();
        for (position, name) in names.iter().enumerate() {
            if !name.is_empty() && names[..position].contains(name) {
                return Err(ReadErrorKind::RepeatedColumn { name: name.clone() });
            }
        }
        Ok(names)
    }

    /// The next row that is not blank, with its line number.
    fn next(&mut self, width: usize) -> io::Result<Option<(u64, Fields)>> {
        self.next_record(Some(width))
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        match self.ahead.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next(),
        }
    }

    fn next_record(&mut self, width: Option<usize>) -> io::Result<Option<(u64, Fields)>> {
        let Some(first) = self.next_filled_line()? else { return Ok(None) };
        let row = first.number;
        let Some(bytes) = first.bytes else {
            return Ok(Some((row, Err(Reason::LineTooLong { limit: self.max_bytes }))));
        };
        let mut parser = Parser::new(self.delimiter);
        let mut state = parser.feed(&bytes);
        let mut below = Vec::new();
        let mut n_bytes = bytes.len();
        while let State::Open = state {
            let Some(line) = self.next_line()? else { break };
            let fits = line.bytes.as_ref().is_some_and(|b| n_bytes + b.len() <= self.max_bytes);
            if let (true, Some(more)) = (fits, &line.bytes) {
                n_bytes += more.len();
                state = parser.feed(more);
            }
            below.push(line);
            if !fits {
                break;
            }
        }
        let found = parser.n_fields();
        let fields = match state {
            State::Open | State::Broken => Err(Reason::Quoting { column: found }),
            State::Complete if width.is_some_and(|w| w != found) => {
                Err(Reason::Ragged { found, expected: width.unwrap_or(found) })
            }
            State::Complete => Ok(parser.fields),
        };
        if fields.is_err() {
            below.into_iter().rev().for_each(|line| self.ahead.push_front(line));
        }
        Ok(Some((row, fields)))
    }

    fn next_filled_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            match self.next_line()? {
                Some(Line { bytes: Some(b), .. }) if lines::trim_end(&b).is_empty() => {}
                line => return Ok(line),
            }
        }
    }
}

/// The delimiter that occurs most in the header; a comma when in doubt.
fn guess_delimiter(header: &[u8]) -> u8 {
    let count = |delimiter: u8| header.iter().filter(|&&b| b == delimiter).count();
    [b';', b'\t'].into_iter().fold(b',', |best, d| if count(d) > count(best) { d } else { best })
}

#[derive(Clone, Copy)]
enum State {
    /// The record is whole.
    Complete,
    /// A quoted field goes on in the next line.
    Open,
    /// Something follows a closing quote.
    Broken,
}

/// Splits one record into fields, fed line by line.
struct Parser {
    delimiter: u8,
    fields: Vec<Vec<u8>>,
    current: Vec<u8>,
    in_quotes: bool,
}

impl Parser {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, fields: vec![], current: vec![], in_quotes: false }
    }

    /// Complete fields; while one is open, the number of its column.
    fn n_fields(&self) -> usize {
        self.fields.len() + usize::from(self.in_quotes)
    }

    fn feed(&mut self, line: &[u8]) -> State {
        let text = lines::trim_end(line);
        let mut at = 0;
        loop {
            if !self.in_quotes && text.get(at) == Some(&b'"') {
                self.in_quotes = true;
                at += 1;
            }
            at = if self.in_quotes {
                let Some(end) = self.quoted(text, at) else {
                    self.current.extend_from_slice(&line[text.len()..]);
                    return State::Open;
                };
                end
            } else {
                self.plain(text, at)
            };
            match text.get(at) {
                Some(&byte) if byte != self.delimiter => return State::Broken,
                next => {
                    self.in_quotes = false;
                    self.fields.push(std::mem::take(&mut self.current));
                    if next.is_none() {
                        return State::Complete;
                    }
                }
            }
            at += 1;
        }
    }

    /// Takes an unquoted field, up to its delimiter. Quotes inside are plain characters.
    fn plain(&mut self, text: &[u8], from: usize) -> usize {
        let end = text[from..].iter().position(|&b| b == self.delimiter);
        let end = end.map_or(text.len(), |n| from + n);
        self.current.extend_from_slice(&text[from..end]);
        end
    }

    /// Takes a quoted field up to after its closing quote; `None` when the line ends first.
    fn quoted(&mut self, text: &[u8], mut at: usize) -> Option<usize> {
        loop {
            let n = text[at..].iter().position(|&b| b == b'"');
            let end = n.map_or(text.len(), |n| at + n);
            self.current.extend_from_slice(&text[at..end]);
            n?;
            if text.get(end + 1) != Some(&b'"') {
                return Some(end + 1);
            }
            self.current.push(b'"');
            at = end + 2;
        }
    }
}
