//! A text file of rows, read through once and then again row by row.
//!
//! In:  a CSV, TSV or JSONL file, plain or gzipped, or a Parquet file; the columns that are wanted. Out: every row with its
//!      position, and the cells of a row whose position is known. Of the file itself nothing stays in memory.
//! Not here: what a row means (`pair_file`, `judged`).
//!
//! A gzipped file, and the wanted columns of a Parquet file, are unpacked once into a temporary file without a
//! name, within `Limits::unpacked_bytes`.

mod cells;
mod index;
mod parquet_rows;
mod unpack;

use std::{
    io::{self, BufReader},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Delimiter, Format, csv, detect, file_name, json, lines};
use crate::{
    Limits, columns,
    error::{TextFileErrorKind, TextRowErrorKind},
    positioned::PositionedFile,
    record::{Place, Reason, Reject, Rejects},
};
pub(crate) use cells::{Cells, Column, number, shortened};
pub(crate) use index::RowIndex;

/// How many records are looked at to learn the columns of a file that declares none.
const PEEK_ROWS: usize = 1024;
const BUFFER_BYTES: usize = 1 << 18;
/// Delimiters tried for a file without a header, likeliest first.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];

/// A column of a file: its name, or its position from 0 in a table without a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a column's name, or its position from 0")]
pub enum ColumnName {
    /// Position from 0; says that the file has no header.
    Position(usize),
    /// A name of the header, or a key of JSON records.
    Name(String),
}

impl From<&str> for ColumnName {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl std::fmt::Display for ColumnName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A column with what it is for.
pub(crate) type Wanted<'a> = (&'static str, &'a ColumnName);

/// A row met while reading through.
pub(crate) struct Scanned {
    /// Its first line, from 1.
    pub(crate) line: u64,
    /// Position of its first byte.
    pub(crate) start: u64,
    /// Its cells, or why they cannot be read.
    pub(crate) cells: Result<Cells, Reason>,
}

/// An open file of rows.
#[derive(Debug)]
pub(crate) struct Table {
    input: Arc<str>,
    file: Arc<PositionedFile>,
    shape: Shape,
    names: Vec<String>,
    damage: Option<io::Error>,
    rejects: Rejects,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Delimited fields, under a header or not.
    Fields { delimiter: u8, has_header: bool },
    /// One JSON object a line.
    Objects,
}

impl Table {
    /// Opens a file and checks that it has the columns.
    pub(crate) fn open(
        path: &Path,
        wanted: &[Wanted<'_>],
        limits: &Limits,
    ) -> Result<Self, TextFileErrorKind> {
        let format = detect::detect(path).map_err(|error| error.kind)?;
        let table = match format {
            Format::Csv { delimiter } => {
                let mut table = Self::of_lines(path, limits)?;
                table.settle_fields(delimiter, highest_position(wanted)?)?;
                table
            }
            Format::Jsonl => {
                refuse_positions(wanted)?;
                let mut table = Self::of_lines(path, limits)?;
                table.names = table.peeked_names()?;
                table
            }
            Format::Parquet => {
                refuse_positions(wanted)?;
                Self::of_parquet(path, wanted, limits)?
            }
            Format::Tar => return Err(TextFileErrorKind::Format { found: "a tar archive" }),
            Format::Folder => return Err(TextFileErrorKind::Format { found: "a folder" }),
        };
        table.check(wanted)?;
        Ok(table)
    }

    /// A text file whose columns are not known yet.
    fn of_lines(path: &Path, limits: &Limits) -> Result<Self, TextFileErrorKind> {
        let (file, damage) = if lines::is_gzip(path)? {
            unpack::unpack(path, limits.unpacked_bytes)?
        } else {
            (PositionedFile::open(path)?, None)
        };
        Ok(Self {
            input: file_name(path).into(),
            file: Arc::new(file),
            shape: Shape::Objects,
            names: vec![],
            damage,
            rejects: Rejects::default(),
            limits: limits.clone(),
        })
    }

    fn of_parquet(
        path: &Path,
        wanted: &[Wanted<'_>],
        limits: &Limits,
    ) -> Result<Self, TextFileErrorKind> {
        let wanted: Vec<String> = wanted.iter().map(|(_, name)| name.to_string()).collect();
        let unpacked = parquet_rows::unpack(path, &wanted, limits)?;
        Ok(Self {
            input: file_name(path).into(),
            file: Arc::new(unpacked.file),
            shape: Shape::Objects,
            names: unpacked.names,
            damage: None,
            rejects: unpacked.rejects,
            limits: limits.clone(),
        })
    }

    /// Learns shape and columns of a table; without a header where a position is asked for.
    fn settle_fields(
        &mut self,
        delimiter: Delimiter,
        highest: Option<usize>,
    ) -> Result<(), TextFileErrorKind> {
        let Some(highest) = highest else {
            let mut rows = csv::Rows::over(self.lines()?, b',', self.limits.line_bytes);
            self.names = rows.header(delimiter)?;
            self.shape = Shape::Fields { delimiter: rows.delimiter(), has_header: true };
            return Ok(());
        };
        let tried: &[u8] = if delimiter == Delimiter::Tab { b"\t" } else { &DELIMITERS };
        let (delimiter, width) = self.shape_without_header(tried, highest)?;
        self.names = (0..width).map(|position| position.to_string()).collect();
        self.shape = Shape::Fields { delimiter, has_header: false };
        Ok(())
    }

    /// The delimiter that gives the first whole row enough fields, and their number.
    fn shape_without_header(
        &self,
        tried: &[u8],
        highest: usize,
    ) -> Result<(u8, usize), TextFileErrorKind> {
        let mut shapes = Vec::new();
        for &delimiter in tried {
            let mut rows = csv::Rows::over(self.lines()?, delimiter, self.limits.line_bytes);
            let width = loop {
                match rows.next_record(None)? {
                    Some(csv::Row { fields: Ok(fields), .. }) => break fields.len(),
                    Some(_) => {}
                    None => break 0,
                }
            };
            shapes.push((delimiter, width));
        }
        let fits = shapes.iter().find(|(_, width)| *width > highest);
        let (delimiter, width) = fits.copied().unwrap_or(shapes[0]);
        if width == 0 {
            return Err(crate::ReadErrorKind::Empty.into());
        }
        Ok((delimiter, width))
    }

    /// The keys of the first records.
    fn peeked_names(&self) -> Result<Vec<String>, TextFileErrorKind> {
        let mut names = Vec::new();
        let mut n_seen = 0;
        self.scan(&mut |row| {
            n_seen += 1;
            if let Ok(Cells::Object(object)) = row.cells {
                names.extend(object.into_iter().map(|(name, _)| name));
            }
            if n_seen < PEEK_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Passes when the file has all columns. Without one good record there is nothing to compare with; then
    /// every row is a reject.
    fn check(&self, wanted: &[Wanted<'_>]) -> Result<(), TextFileErrorKind> {
        if self.names.is_empty() {
            return Ok(());
        }
        let texts: Vec<(&str, String)> =
            wanted.iter().map(|(role, name)| (*role, name.to_string())).collect();
        let mut checked =
            columns::check(texts.iter().map(|(role, name)| (*role, name)), &self.names);
        if let (Err(error), Shape::Fields { has_header: false, .. }) = (&mut checked, self.shape) {
            // A near position is no slip of the pen.
            error.missing.iter_mut().for_each(|column| column.closest = None);
        }
        Ok(checked?)
    }

    /// A column that was among the wanted ones.
    pub(crate) fn column(&self, name: &ColumnName) -> Column {
        let label = name.to_string();
        let at = self.names.iter().position(|found| *found == label).unwrap_or_default();
        Column { label, at }
    }

    /// Whether each column has exactly one value in each row.
    pub(crate) fn is_flat(&self) -> bool {
        matches!(self.shape, Shape::Fields { .. })
    }

    /// The rows that unpacking left out already.
    pub(crate) fn take_rejects(&mut self) -> Rejects {
        std::mem::take(&mut self.rejects)
    }

    /// The file's name.
    pub(crate) fn input(&self) -> &str {
        &self.input
    }

    pub(crate) fn place(&self, line: u64) -> Place {
        Place { input: Arc::clone(&self.input), row: line }
    }

    pub(crate) fn reject(&self, line: u64, reason: Reason) -> Reject {
        Reject { place: self.place(line), id: None, reason }
    }

    fn lines(&self) -> io::Result<lines::Lines> {
        let reader = BufReader::with_capacity(BUFFER_BYTES, self.file.reader());
        lines::Lines::over(Box::new(reader), self.limits.line_bytes)
    }

    /// Reads through the file, row by row; blank lines are no rows.
    pub(crate) fn scan(
        &self,
        each: &mut dyn FnMut(Scanned) -> ControlFlow<()>,
    ) -> Result<(), TextFileErrorKind> {
        let mut lines = self.lines()?;
        let (flow, last) = match self.shape {
            Shape::Objects => (self.scan_objects(&mut lines, each)?, lines.next_number()),
            Shape::Fields { delimiter, has_header } => {
                let mut rows = csv::Rows::over(lines, delimiter, self.limits.line_bytes);
                if has_header {
                    rows.next_record(None)?;
                }
                (self.scan_fields(&mut rows, each)?, rows.next_number())
            }
        };
        if let (ControlFlow::Continue(()), Some(damage)) = (flow, &self.damage) {
            let copy = io::Error::new(damage.kind(), damage.to_string());
            let cells = Err(Reason::Damaged(copy));
            let _ = each(Scanned { line: last, start: self.file.n_bytes(), cells });
        }
        Ok(())
    }

    fn scan_objects(
        &self,
        lines: &mut lines::Lines,
        each: &mut dyn FnMut(Scanned) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        while let Some(line) = lines.next()? {
            let cells = match &line.bytes {
                None => Err(Reason::LineTooLong { limit: self.limits.line_bytes }),
                Some(bytes) if bytes.trim_ascii().is_empty() => continue,
                Some(bytes) => self.object(bytes),
            };
            if each(Scanned { line: line.number, start: line.start, cells }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn scan_fields(
        &self,
        rows: &mut csv::Rows,
        each: &mut dyn FnMut(Scanned) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        while let Some(row) = rows.next(self.names.len())? {
            let cells = row.fields.and_then(|fields| self.fields(fields));
            if each(Scanned { line: row.number, start: row.start, cells }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn object(&self, line: &[u8]) -> Result<Cells, Reason> {
        json::object(lines::trim_end(line), &self.limits).map(Cells::Object)
    }

    fn fields(&self, fields: Vec<Vec<u8>>) -> Result<Cells, Reason> {
        let named = self.names.iter().zip(fields);
        let texts: Result<_, _> = named.map(|(name, bytes)| csv::field_text(name, bytes)).collect();
        texts.map(Cells::Fields)
    }

    /// The cells of a row that was read before.
    pub(crate) fn cells(&self, index: &RowIndex, row: usize) -> Result<Cells, TextRowErrorKind> {
        let (start, end) = index.span(row, self.file.n_bytes());
        // Rows that were left out may lie between this one and the next.
        let length = (end - start).min(self.limits.line_bytes as u64);
        let block = self.file.read(start, length)?;
        let cells = match self.shape {
            Shape::Objects => {
                block.split_inclusive(|&byte| byte == b'\n').next().map(|line| self.object(line))
            }
            Shape::Fields { delimiter, .. } => csv::parse(&block, delimiter)
                .filter(|fields| fields.len() == self.names.len())
                .map(|fields| self.fields(fields)),
        };
        cells.and_then(Result::ok).ok_or(TextRowErrorKind::Changed)
    }
}

fn refuse_positions(wanted: &[Wanted<'_>]) -> Result<(), TextFileErrorKind> {
    let position = highest_position(wanted)?;
    position.map_or(Ok(()), |position| Err(TextFileErrorKind::PositionOfNamed { position }))
}

/// The highest position, `None` when all columns are named.
fn highest_position(wanted: &[Wanted<'_>]) -> Result<Option<usize>, TextFileErrorKind> {
    let mut named = None;
    let mut highest = None;
    for (_, column) in wanted {
        match column {
            ColumnName::Name(name) => named = named.or(Some(name)),
            ColumnName::Position(position) => highest = highest.max(Some(*position)),
        }
    }
    match (named, highest) {
        (Some(name), Some(position)) => {
            Err(TextFileErrorKind::MixedColumns { name: name.clone(), position })
        }
        (_, highest) => Ok(highest),
    }
}
