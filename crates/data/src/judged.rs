//! Training rows of judgements: who searched what, which item was shown, how well it fitted.
//!
//! In:  a file of judgements (query, item, grade) and a file of items (id, texts), each CSV, TSV or JSONL, plain or
//!      gzipped, or Parquet; [`JudgedRule`] says what is a positive and what a negative.
//! Out: [`JudgedRow`]s by number: a query, an item that fits it, items that do not.
//! Not here: pairs whose negatives stand beside them (`pair_file`), judgements to measure with.
//!
//! In memory are ids, queries, judgements and the index of words; the items' texts stay in their file. Everything
//! follows from the two files, the rule and the seed.

mod items;
mod judgements;
mod lexical;
mod negatives;

use std::path::Path;

use conjoin_core::{Seed, hash_bytes, hash_file};
use serde::{Deserialize, Serialize};

use crate::{
    Aspects, Limits, Rejects, TextFileError, TextFileErrorKind, TextRowError, TextRowErrorKind,
    read::table::{ColumnName, Wanted},
};
use items::Items;
use judgements::{Judgements, RowAt};

/// Which columns of the two files mean what. Columns of one file are named all, or all numbered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedColumns {
    /// The query, in the judgements.
    pub query: ColumnName,
    /// The item's id, in the judgements.
    pub item: ColumnName,
    /// How well the item fits, in the judgements: a number, more is better.
    pub grade: ColumnName,
    /// The item's id, in the items.
    pub item_id: ColumnName,
    /// The item's texts, in the items; those that are not blank are joined by `". "`.
    pub item_text: Vec<ColumnName>,
}

/// What a grade means, and how many negatives a row has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedRule {
    /// Judgements with this grade or more are rows.
    pub positive_from: f32,
    /// Items with a grade below this are negatives of their query, before any other; at most `positive_from`.
    /// An item with this grade or more never is one.
    pub negative_below: f32,
    /// Negatives of each row.
    pub n_negatives: usize,
}

impl JudgedRule {
    fn check(&self) -> Result<(), TextFileErrorKind> {
        let fault = |key, found: f32, expected: String| {
            Err(TextFileErrorKind::Setting { key, found: found.to_string(), expected })
        };
        if !self.positive_from.is_finite() {
            return fault("positive_from", self.positive_from, "a finite number".to_owned());
        }
        if !self.negative_below.is_finite() || self.negative_below > self.positive_from {
            let expected = format!("a number of at most `positive_from`, {}", self.positive_from);
            return fault("negative_below", self.negative_below, expected);
        }
        Ok(())
    }
}

/// A row of [`Judged`].
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedRow {
    /// `FILE:LINE` of the first judgement of this query and item.
    pub id: String,
    /// What was searched, as first written.
    pub query: String,
    /// The text of the item that fits.
    pub document: String,
    /// Texts of items that do not, as many as the rule says; all different, and none that of an item judged
    /// `negative_below` or better for the query.
    pub negatives: Vec<String>,
    /// The grade; the mean where there are several judgements.
    pub grade: f32,
    /// The id of the item that fits.
    pub document_id: String,
    /// The ids of the negatives.
    pub negative_ids: Vec<String>,
}

/// Judgements and items, opened for training.
#[derive(Debug)]
pub struct Judged {
    items: Items,
    judgements: Judgements,
    rule: JudgedRule,
    aspects: Aspects,
    rejects: Rejects,
    fingerprint: String,
}

impl Judged {
    /// Opens both files, reads each through once and builds the index of words.
    ///
    /// Queries are the same when they are so in lower case with single spaces. Several judgements of one
    /// query and item count as one with their mean grade.
    ///
    /// # Errors
    /// When a file cannot be read or unpacks beyond its limit, its format or header makes no sense, it lacks a
    /// column, the rule contradicts itself, or no judgement makes a row. A bad row is no error but a reject, so is
    /// a judgement of an unknown item.
    pub fn open(
        judgements: &Path,
        items: &Path,
        columns: &JudgedColumns,
        rule: &JudgedRule,
        limits: &Limits,
    ) -> Result<Self, TextFileError> {
        let of = |path: &Path, kind| TextFileError { path: path.to_owned(), kind };
        rule.check().map_err(|kind| of(judgements, kind))?;
        let mut rejects = Rejects::default();
        let hashes = (|| Ok((hash_file(judgements)?, hash_file(items)?)))();
        let hashes = hashes.map_err(|error: std::io::Error| of(judgements, error.into()))?;
        let found = Items::open(items, columns, limits, &mut rejects);
        let found = found.map_err(|kind| of(items, kind))?;
        let read = Judgements::open(judgements, columns, (rule, limits), (&found, &mut rejects));
        let read = read.map_err(|kind| of(judgements, kind))?;
        Ok(Self {
            aspects: read.aspects(&found),
            items: found,
            judgements: read,
            rule: *rule,
            rejects,
            fingerprint: fingerprint(&(hashes, columns, rule, limits)),
        })
    }

    /// How many rows can be read.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "judgements without a row do not open")]
    pub fn len(&self) -> usize {
        self.judgements.rows().len()
    }

    /// SHA-256 of both files, the columns, the rule and the limits: equal ones give equal rows for equal seeds.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The rows of both files that are left out.
    #[must_use]
    pub fn rejects(&self) -> &Rejects {
        &self.rejects
    }

    /// What rows have in common: the query and the item's text. There are no groups.
    #[must_use]
    pub fn aspects(&self) -> &Aspects {
        &self.aspects
    }

    /// Items with a usable text.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    /// Different queries.
    #[must_use]
    pub fn n_queries(&self) -> usize {
        self.judgements.n_queries()
    }

    /// Reads a row and draws its negatives.
    ///
    /// First come the query's items judged below `negative_below`; then items that share words with the query or
    /// the document, drawn from the thirty nearest that were not judged for this query; then any. The order
    /// within each is drawn from the seed: one seed an epoch gives other negatives in every epoch.
    ///
    /// # Errors
    /// When there is no such row, the items cannot be read, or were changed since they were opened.
    pub fn read(&self, row: usize, seed: Seed) -> Result<JudgedRow, TextRowError> {
        let fail = |input: &str, kind| TextRowError { input: input.to_owned(), row, kind };
        let Some(at) = self.judgements.rows().get(row) else {
            let kind = TextRowErrorKind::NoRow { n_rows: self.len() };
            return Err(fail(self.judgements.input(), kind));
        };
        let seed = seed.stream("judged negatives").at(row as u64);
        self.row(at, seed).map_err(|kind| fail(self.items.input(), kind))
    }

    fn row(&self, at: &RowAt, seed: Seed) -> Result<JudgedRow, TextRowErrorKind> {
        let query = self.judgements.query(at);
        let (document_id, document) = self.items.read(at.item)?;
        let texts = (query.text.as_str(), document.as_str());
        let drawn = negatives::draw(&self.items, (query.judged, self.rule), texts, seed);
        let mut negatives = Vec::with_capacity(drawn.len());
        let mut negative_ids = Vec::with_capacity(drawn.len());
        for item in drawn {
            let (id, text) = self.items.read(item)?;
            negative_ids.push(id);
            negatives.push(text);
        }
        Ok(JudgedRow {
            id: format!("{}:{}", self.judgements.input(), at.line),
            query: query.text.clone(),
            document,
            negatives,
            grade: at.grade,
            document_id,
            negative_ids,
        })
    }
}

/// SHA-256 of what decides the rows.
fn fingerprint(settings: &impl Serialize) -> String {
    hash_bytes(&serde_json::to_vec(settings).expect("settings are plain data"))
}

impl JudgedColumns {
    fn of_judgements(&self) -> Vec<Wanted<'_>> {
        vec![("query", &self.query), ("item", &self.item), ("grade", &self.grade)]
    }

    fn of_items(&self) -> Vec<Wanted<'_>> {
        let texts = self.item_text.iter().map(|column| ("item text", column));
        std::iter::once(("item id", &self.item_id)).chain(texts).collect()
    }
}

#[cfg(test)]
mod tests;
