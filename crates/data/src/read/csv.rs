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
            Ok(Some(row)) => match row.fields.and_then(|f| to_text(&header, f)) {
                Ok(fields) => source.record(row.number, fields),
                Err(reason) => source.reject(row.number, reason),
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
    pairs.map(|(name, bytes)| Ok((name.clone(), field_text(name, bytes)?))).collect()
}

/// A field as text, or the reject of its row.
pub(super) fn field_text(name: &str, bytes: Vec<u8>) -> Result<String, Reason> {
    String::from_utf8(bytes).map_err(|error| {
        let byte = error.utf8_error().valid_up_to() + 1;
        Reason::NotUtf8 { part: format!("field `{name}`"), byte }
    })
}

type Fields = Result<Vec<Vec<u8>>, Reason>;

/// A row as it stands in the file.
pub(super) struct Row {
    /// Its first line, from 1.
    pub(super) number: u64,
    /// Position of its first byte.
    pub(super) start: u64,
    /// Its fields, or what is wrong with it.
    pub(super) fields: Fields,
}

/// The fields of the one record that a block of bytes begins with; `None` when it is not whole.
pub(super) fn parse(block: &[u8], delimiter: u8) -> Option<Vec<Vec<u8>>> {
    let mut parser = Parser::new(delimiter);
    for line in block.split_inclusive(|&byte| byte == b'\n') {
        match parser.feed(line) {
            State::Complete => return Some(parser.fields),
            State::Open => {}
            State::Broken => return None,
        }
    }
    None
}

/// The records of a file, with the lines read ahead but not used yet.
pub(super) struct Rows {
    lines: Lines,
    ahead: VecDeque<Line>,
    delimiter: u8,
    max_bytes: usize,
}

impl Rows {
    fn open(path: &Path, max_bytes: usize) -> io::Result<Self> {
        Ok(Self::over(Lines::open(path, max_bytes)?, b',', max_bytes))
    }

    /// The records of lines whose delimiter is known.
    pub(super) fn over(lines: Lines, delimiter: u8, max_bytes: usize) -> Self {
        Self { lines, ahead: VecDeque::new(), delimiter, max_bytes }
    }

    /// What stands between fields; settled by the header.
    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// The number of the next line that was not looked at.
    pub(super) fn next_number(&self) -> u64 {
        self.lines.next_number()
    }

    /// Reads the header and settles the delimiter.
    pub(super) fn header(&mut self, delimiter: Delimiter) -> Result<Vec<String>, ReadErrorKind> {
        let first = self.next_line()?.ok_or(ReadErrorKind::Empty)?;
        self.delimiter = match (delimiter, &first.bytes) {
            (Delimiter::Tab, _) => b'\t',
            (Delimiter::Guess, Some(line)) => guess_delimiter(line),
            (Delimiter::Guess, None) => b',',
        };
        self.ahead.push_front(first);
        let header = self.next_record(None)?.ok_or(ReadErrorKind::Empty)?;
        let fields = header.fields.map_err(|r| ReadErrorKind::Header { reason: r.sentence() })?;
        let names: Vec<String> =
            fields.iter().map(|f| String::from_utf8_lossy(f).trim().to_owned()).collect();
        for (position, name) in names.iter().enumerate() {
            if !name.is_empty() && names[..position].contains(name) {
                return Err(ReadErrorKind::RepeatedColumn { name: name.clone() });
            }
        }
        Ok(names)
    }

    /// The next row that is not blank.
    pub(super) fn next(&mut self, width: usize) -> io::Result<Option<Row>> {
        self.next_record(Some(width))
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        match self.ahead.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next(),
        }
    }

    /// The next row that is not blank, of any width where none is asked for.
    pub(super) fn next_record(&mut self, width: Option<usize>) -> io::Result<Option<Row>> {
        let Some(first) = self.next_filled_line()? else { return Ok(None) };
        let (number, start) = (first.number, first.start);
        let Some(bytes) = first.bytes else {
            let fields = Err(Reason::LineTooLong { limit: self.max_bytes });
            return Ok(Some(Row { number, start, fields }));
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
        Ok(Some(Row { number, start, fields }))
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
