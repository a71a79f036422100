//! Text pairs for training, read row by row from one file.
//!
//! In:  a CSV, TSV or JSONL file, plain or gzipped, or Parquet; [`PairColumns`] says which columns mean what.
//! Out: [`PairRow`]s by number, in any order, from any number of threads; [`Aspects`] to keep equal texts out of
//!      one batch.
//! Not here: catalogues of items (`curate`), judgements with the items apart (`judged`), batches.
//!
//! Of the file itself nothing stays in memory: 24 bytes a row do (32 with groups). A bad row costs itself and is
//! told in [`PairFile::rejects`].

mod layout;

use std::{ops::ControlFlow, path::Path};

use conjoin_core::{Seed, hash_bytes, hash_file};
use serde::{Deserialize, Serialize};

use crate::{
    Limits, Reason, Rejects, Split, TextFileError, TextFileErrorKind, TextRowError,
    TextRowErrorKind,
    read::table::{ColumnName, RowIndex, Table, Wanted},
    text_key::text_hash,
};
use layout::{Layout, Pair};

/// Which columns of a file of text pairs mean what.
///
/// Columns are named all, or all numbered from 0; numbers say that the file has no header. Columns of
/// JSON and Parquet are named always; which ones a JSON file has is told by its first 1,024 records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairColumns {
    /// The text that searches, or the first of two equals.
    pub query: ColumnName,
    /// The text to be found, or the second of two equals.
    pub document: ColumnName,
    /// Texts not to be found; a list gives several. Blank ones do not count.
    #[serde(default)]
    pub negatives: Vec<ColumnName>,
    /// How many negatives each row has: of a row with more the first ones are used, a row with fewer is
    /// rejected. By default as many as there are columns; where a list may be among them, as many as
    /// the first usable row has.
    #[serde(default)]
    pub n_negatives: Option<usize>,
    /// How well the two fit, a number of any scale.
    #[serde(default)]
    pub grade: Option<ColumnName>,
    /// A teacher's scores of the document, then of each negative in the order of `negatives`; a list
    /// gives several.
    #[serde(default)]
    pub scores: Vec<ColumnName>,
    /// Rows of equal group are relevant to each other; blank is a group of its own.
    #[serde(default)]
    pub group: Option<ColumnName>,
    /// A split's word; rows of other splits than the wanted one are passed over.
    #[serde(default)]
    pub split: Option<ColumnName>,
}

impl PairColumns {
    /// A query and a document, nothing else.
    #[must_use]
    pub fn new(query: ColumnName, document: ColumnName) -> Self {
        Self {
            query,
            document,
            negatives: vec![],
            n_negatives: None,
            grade: None,
            scores: vec![],
            group: None,
            split: None,
        }
    }

    fn wanted(&self) -> Vec<Wanted<'_>> {
        let mut wanted = vec![("query", &self.query), ("document", &self.document)];
        wanted.extend(self.negatives.iter().map(|column| ("negatives", column)));
        wanted.extend(self.grade.iter().map(|column| ("grade", column)));
        wanted.extend(self.scores.iter().map(|column| ("scores", column)));
        wanted.extend(self.group.iter().map(|column| ("group", column)));
        wanted.extend(self.split.iter().map(|column| ("split", column)));
        wanted
    }
}

/// A row of a [`PairFile`]. All texts are trimmed, none is blank.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// `FILE:LINE`; a CSV header is line 1.
    pub id: String,
    /// The text that searches.
    pub query: String,
    /// The text to be found.
    pub document: String,
    /// Texts not to be found, [`PairFile::n_negatives`] of them.
    pub negatives: Vec<String>,
    /// How well the two fit, where there is a column.
    pub grade: Option<f32>,
    /// A teacher's scores of the document, then of each negative; empty where there is no column.
    pub scores: Vec<f32>,
    /// The group, where there is a column and it is not blank.
    pub group: Option<String>,
}

/// What rows have in common, as one hash a row: rows equal in one of them should not meet in one batch.
///
/// Texts are equal when they are so in lower case with single spaces. Hashes of queries and documents can be
/// compared with each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aspects {
    /// Of the query, by row.
    pub queries: Vec<u64>,
    /// Of the document, by row.
    pub documents: Vec<u64>,
    /// Of the group, by row, rows without one differing from all others; empty where there is no column.
    pub groups: Vec<u64>,
}

impl Aspects {
    /// Those there are, each with one hash a row.
    #[must_use]
    pub fn all(&self) -> Vec<&[u64]> {
        let all = [&self.queries, &self.documents, &self.groups];
        all.into_iter().map(Vec::as_slice).filter(|hashes| !hashes.is_empty()).collect()
    }
}

/// An open file of text pairs.
#[derive(Debug)]
pub struct PairFile {
    table: Table,
    layout: Layout,
    index: RowIndex,
    aspects: Aspects,
    rejects: Rejects,
    fingerprint: String,
}

impl PairFile {
    /// Opens a file, reads it through once and notes where its usable rows are.
    ///
    /// `split` takes the rows of one split only. It needs the split column: without one, every row counts,
    /// whatever `split` says, because the file then is one split as a whole.
    ///
    /// # Errors
    /// When the file cannot be read or unpacks beyond its limit, its format or header makes no sense, it lacks a
    /// column, settings contradict each other, or no row is usable. A bad row is no error but a reject.
    pub fn open(
        path: &Path,
        columns: &PairColumns,
        split: Option<Split>,
        limits: &Limits,
    ) -> Result<Self, TextFileError> {
        Self::open_kind(path, columns, split, limits)
            .map_err(|kind| TextFileError { path: path.to_owned(), kind })
    }

    fn open_kind(
        path: &Path,
        columns: &PairColumns,
        split: Option<Split>,
        limits: &Limits,
    ) -> Result<Self, TextFileErrorKind> {
        let mut table = Table::open(path, &columns.wanted(), limits)?;
        let layout = Layout::new(columns, &table, limits)?;
        let settings = (hash_file(path)?, columns, split, limits);
        let settings = serde_json::to_vec(&settings).expect("settings are plain data");
        let mut file = Self {
            rejects: table.take_rejects(),
            table,
            layout,
            index: RowIndex::default(),
            aspects: Aspects::default(),
            fingerprint: hash_bytes(&settings),
        };
        file.read_through(split)?;
        Ok(file)
    }

    fn read_through(&mut self, split: Option<Split>) -> Result<(), TextFileErrorKind> {
        let Self { table, layout, index, aspects, rejects, .. } = self;
        table.scan(&mut |row| {
            let pair = row.cells.and_then(|cells| layout.pair_of(&cells, split));
            match pair {
                Ok(None) => {}
                Ok(Some(pair)) => {
                    layout.n_negatives.get_or_insert(pair.negatives.len());
                    index.push(row.start, row.line);
                    aspects.add(&pair, layout.has_groups(), row.line);
                }
                Err(reason) => rejects.add(table.reject(row.line, reason)),
            }
            ControlFlow::Continue(())
        })?;
        if index.len() == 0 {
            return Err(rejects.nothing_usable());
        }
        index.shrink();
        Ok(())
    }

    /// How many rows can be read.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a file without a usable row does not open")]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// How many negatives each row has.
    #[must_use]
    pub fn n_negatives(&self) -> usize {
        self.layout.n_negatives.unwrap_or_default()
    }

    /// SHA-256 of the file's content, the columns, the split and the limits: equal ones give equal rows.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The rows that are left out.
    #[must_use]
    pub fn rejects(&self) -> &Rejects {
        &self.rejects
    }

    /// What rows have in common.
    #[must_use]
    pub fn aspects(&self) -> &Aspects {
        &self.aspects
    }

    /// `FILE:LINE` of a row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn id(&self, row: usize) -> String {
        assert!(row < self.len(), "there are {} rows, {row} is none", self.len());
        format!("{}:{}", self.table.input(), self.index.line(row))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// When there is no such row, the file cannot be read, or it was changed since it was opened.
    pub fn read(&self, row: usize) -> Result<PairRow, TextRowError> {
        self.read_kind(row).map_err(|kind| TextRowError {
            input: self.table.input().to_owned(),
            row,
            kind,
        })
    }

    fn read_kind(&self, row: usize) -> Result<PairRow, TextRowErrorKind> {
        if row >= self.len() {
            return Err(TextRowErrorKind::NoRow { n_rows: self.len() });
        }
        let cells = self.table.cells(&self.index, row)?;
        let pair = self.layout.pair(&cells).map_err(|_| TextRowErrorKind::Changed)?;
        let hashes = (text_hash(&pair.query), text_hash(&pair.document));
        if hashes != (self.aspects.queries[row], self.aspects.documents[row]) {
            return Err(TextRowErrorKind::Changed);
        }
        let Pair { query, document, negatives, grade, scores, group } = pair;
        Ok(PairRow { id: self.id(row), query, document, negatives, grade, scores, group })
    }
}

impl Aspects {
    fn add(&mut self, pair: &Pair, has_groups: bool, line: u64) {
        self.queries.push(text_hash(&pair.query));
        self.documents.push(text_hash(&pair.document));
        if has_groups {
            let own = || Seed(0).stream("row").at(line).0;
            self.groups.push(pair.group.as_deref().map_or_else(own, text_hash));
        }
    }
}

impl Rejects {
    /// The error of a file that has rejects only, or nothing.
    pub(crate) fn nothing_usable(&self) -> TextFileErrorKind {
        let reasons = self.reasons().iter().map(|(kind, n)| ((*kind).to_owned(), *n));
        TextFileErrorKind::NothingUsable { n_rows: self.n(), reasons: reasons.collect() }
    }
}

#[cfg(test)]
mod tests;
