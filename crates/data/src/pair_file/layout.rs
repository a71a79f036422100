//! A row's cells as a pair, or why they are none.
//!
//! In:  the configured columns of an open table, a row's cells. Out: a [`Pair`], or the [`Reason`].

use super::{PairColumns, Reason, Split, Table, TextFileErrorKind};
use crate::{
    Limits,
    read::table::{Cells, Column, ColumnName, number},
};

/// The columns of an open table.
#[derive(Debug)]
pub(super) struct Layout {
    query: Column,
    document: Column,
    negatives: Vec<Column>,
    grade: Option<Column>,
    scores: Vec<Column>,
    group: Option<Column>,
    split: Option<Column>,
    /// Negatives of each row; `None` until the first usable row tells.
    pub(super) n_negatives: Option<usize>,
    max_bytes: usize,
}

/// A usable row.
pub(super) struct Pair {
    pub(super) query: String,
    pub(super) document: String,
    pub(super) negatives: Vec<String>,
    pub(super) grade: Option<f32>,
    pub(super) scores: Vec<f32>,
    pub(super) group: Option<String>,
}

impl Layout {
    pub(super) fn new(
        columns: &PairColumns,
        table: &Table,
        limits: &Limits,
    ) -> Result<Self, TextFileErrorKind> {
        let one = |name: &Option<ColumnName>| name.as_ref().map(|name| table.column(name));
        let all = |names: &[ColumnName]| names.iter().map(|name| table.column(name)).collect();
        let n_columns = columns.negatives.len();
        let is_known = table.is_flat() || n_columns == 0;
        let layout = Self {
            query: table.column(&columns.query),
            document: table.column(&columns.document),
            negatives: all(&columns.negatives),
            grade: one(&columns.grade),
            scores: all(&columns.scores),
            group: one(&columns.group),
            split: one(&columns.split),
            n_negatives: columns.n_negatives.or(is_known.then_some(n_columns)),
            max_bytes: limits.field_bytes,
        };
        layout.check(is_known)?;
        Ok(layout)
    }

    /// Passes when the columns can hold what is asked of each row.
    fn check(&self, is_flat: bool) -> Result<(), TextFileErrorKind> {
        let Some(n) = self.n_negatives.filter(|_| is_flat) else { return Ok(()) };
        let (n_columns, n_scores) = (self.negatives.len(), self.scores.len());
        if n > n_columns {
            return Err(TextFileErrorKind::Setting {
                key: "n_negatives",
                found: n.to_string(),
                expected: format!("at most {n_columns}, the number of columns in `negatives`"),
            });
        }
        // A JSON list of scores may stand in one column even where there are no negatives.
        if n_scores > 0 && n_scores < 1 + n {
            return Err(TextFileErrorKind::Setting {
                key: "scores",
                found: format!("{n_scores} columns"),
                expected: format!("{}: of the document, then of each negative", 1 + n),
            });
        }
        Ok(())
    }

    pub(super) fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    /// The pair of a row; `None` when the row is of another split.
    pub(super) fn pair_of(
        &self,
        cells: &Cells,
        split: Option<Split>,
    ) -> Result<Option<Pair>, Reason> {
        if let (Some(column), Some(wanted)) = (&self.split, split) {
            let word = cells.text(column, self.max_bytes)?;
            match Split::from_word(&word) {
                None => return Err(Reason::UnknownSplit { word: word.into_owned() }),
                Some(found) if found != wanted => return Ok(None),
                Some(_) => {}
            }
        }
        self.pair(cells).map(Some)
    }

    /// The pair of a row of any split.
    pub(super) fn pair(&self, cells: &Cells) -> Result<Pair, Reason> {
        let filled = |column| cells.filled(column, self.max_bytes);
        let (query, document) = (filled(&self.query)?, filled(&self.document)?);
        let grade =
            self.grade.as_ref().map(|column| number(column, &filled(column)?)).transpose()?;
        let group = self.group.as_ref().map(|column| cells.text(column, self.max_bytes));
        let group = group.transpose()?.filter(|group| !group.is_empty());
        let (places, negatives) = self.negatives(cells)?;
        Ok(Pair {
            query: query.into_owned(),
            document: document.into_owned(),
            negatives,
            grade,
            scores: self.scores(cells, &places)?,
            group: group.map(std::borrow::Cow::into_owned),
        })
    }

    /// The negatives that are used, and their places among all there are.
    fn negatives(&self, cells: &Cells) -> Result<(Vec<usize>, Vec<String>), Reason> {
        let mut all = Vec::new();
        for column in &self.negatives {
            all.extend(cells.texts(column, self.max_bytes)?);
        }
        let filled = all.into_iter().enumerate().filter(|(_, text)| !text.is_empty());
        let (places, texts): (Vec<usize>, Vec<String>) = filled
            .take(self.n_negatives.unwrap_or(usize::MAX))
            .map(|(place, text)| (place, text.into_owned()))
            .unzip();
        // The row that is to tell the number for all must have one.
        let least = usize::from(!self.negatives.is_empty());
        let expected = self.n_negatives.unwrap_or(least);
        if texts.len() < expected {
            return Err(Reason::TooFewNegatives { found: texts.len(), expected });
        }
        Ok((places, texts))
    }

    /// The scores of the document and of the used negatives.
    fn scores(&self, cells: &Cells, places: &[usize]) -> Result<Vec<f32>, Reason> {
        let mut all = Vec::new();
        for column in &self.scores {
            let texts = cells.texts(column, self.max_bytes)?;
            all.extend(texts.into_iter().map(|text| (column, text)));
        }
        if self.scores.is_empty() {
            return Ok(vec![]);
        }
        let used = std::iter::once(0).chain(places.iter().map(|place| place + 1));
        used.map(|place| match all.get(place) {
            Some((column, text)) => number(column, text),
            None => Err(Reason::TooFewScores { found: all.len(), expected: place + 1 }),
        })
        .collect()
    }
}
