//! A teacher: another model, frozen, that knows which documents fit queries they do not belong to.
//!
//! In:  the teacher's vectors of a batch, or its score of a pair's own document; a threshold.
//! Out: for two of the batch, whether the teacher finds that they fit.
//! Not here: the teacher itself (who reads the data embeds with it), what else is no negative
//!      (`false_negatives`).
//! Source: Solatorio 2024 (GISTEmbed, arXiv 2402.16829), section 3; Moreira et al. 2024 (NV-Retriever,
//! arXiv 2407.15831), section 4. Parity: `testdata/parity/losses`.
//!
//! No matrix of the batch is held: each tile of a loss computes the teacher's similarities it needs. What
//! is too near to the threshold for f32 is computed in f64, so that a pair is judged the same wherever it
//! is met.

use std::ops::Range;

use conjoin_core::Embeddings;
use serde::{Deserialize, Serialize};

use super::false_negatives::Between;
use crate::{
    config::{Faults, positive},
    kernels::{inner_product, vectorized},
    matmul::{Left, PANEL, Panels, multiply_add},
};

/// Above which of a teacher's scores a document is no negative of a query.
///
/// | threshold | NV-Retriever     | sentence-transformers' GISTEmbedLoss             |
/// |-----------|------------------|--------------------------------------------------|
/// | `above`   | TopK-Abs         | none                                             |
/// | `share`   | TopK-PercPos     | `margin_strategy` relative, `margin` of 1 - share |
/// | `margin`  | TopK-MarginPos   | `margin_strategy` absolute, the same `margin`    |
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherThreshold {
    /// Above this score.
    Above(f32),
    /// Above this share of the own document's score: `own - |own| · (1 - share)`, which is
    /// `share · own` where scores are positive. 0.95 in NV-Retriever.
    Share(f32),
    /// Above the own document's score less this. 0 in GISTEmbed.
    Margin(f32),
}

impl TeacherThreshold {
    /// The threshold of a query whose own document has the score `own`.
    pub(super) fn of(self, own: f64) -> f64 {
        match self {
            Self::Above(score) => f64::from(score),
            Self::Share(share) => own - own.abs() * (1.0 - f64::from(share)),
            Self::Margin(margin) => own - f64::from(margin),
        }
    }

    /// Notes a number that cannot be; `path` is the configuration's.
    pub(crate) fn check(self, path: &str, faults: &mut Faults) {
        let (key, found, fits, expected) = match self {
            Self::Above(x) => ("above", x, x.is_finite(), "a number"),
            Self::Share(x) => ("share", x, positive(x.into()), "a number above 0"),
            Self::Margin(x) => ("margin", x, x.is_finite(), "a number"),
        };
        faults.need(&format!("{path}.{key}"), found, fits, expected);
    }
}

/// A teacher's vectors of what a batch shows, rows of unit length; their width is the teacher's.
///
/// # Shapes
/// - `queries`: `[b, e]`
/// - `documents`: `[b·(1+m), e]`, own documents first, as of [`Batch`](super::Batch)
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherVectors {
    /// Of the queries.
    pub queries: Embeddings,
    /// Of the documents.
    pub documents: Embeddings,
}

impl TeacherVectors {
    /// Whether they are of `b` queries and `n` documents.
    pub(crate) fn fit(&self, b: usize, n: usize) -> bool {
        let Self { queries, documents } = self;
        queries.len() == b && documents.len() == n && queries.width() == documents.width()
    }

    /// Those of several batches as of one: own documents first, then all hard negatives. `None` when
    /// there are none, or their widths differ.
    pub(crate) fn join(parts: Vec<Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut all = parts.next()?;
        let mut negatives = all.split_negatives();
        for mut part in parts {
            if part.queries.width() != all.queries.width() {
                return None;
            }
            negatives.append(&part.split_negatives());
            all.queries.append(&part.queries);
            all.documents.append(&part.documents);
        }
        all.documents.append(&negatives);
        Some(all)
    }

    fn split_negatives(&mut self) -> Embeddings {
        let rows: Vec<usize> = (0..self.documents.len()).collect();
        let (own, negatives) = rows.split_at(self.queries.len());
        let negatives = self.documents.select(negatives);
        self.documents = self.documents.select(own);
        negatives
    }
}

/// What a teacher finds of a batch.
#[derive(Debug, Clone)]
pub(super) struct Taught {
    vectors: TeacherVectors,
    /// `[b]`
    thresholds: Vec<f64>,
}

impl Taught {
    pub(super) fn new(vectors: TeacherVectors, threshold: TeacherThreshold) -> Self {
        let own = vectors.queries.rows().zip(vectors.documents.rows());
        let thresholds = own.map(|(query, own)| threshold.of(exact(query, own))).collect();
        Self { vectors, thresholds }
    }

    /// Number of documents, `b·(1+m)`.
    pub(super) fn n_documents(&self) -> usize {
        self.vectors.documents.len()
    }

    pub(super) fn fit(&self, b: usize, n: usize) -> bool {
        self.vectors.fit(b, n)
    }

    /// Shows the pairs of `rows` and `columns`, each with itself excepted, that the teacher scores above
    /// the row's threshold.
    pub(super) fn for_each_fit(
        &self,
        between: Between,
        rows: Range<usize>,
        columns: Range<usize>,
        mut visit: impl FnMut(usize, usize),
    ) {
        let (left, right) = self.sides(between);
        let (scores, stride) = products((left, &rows), (right, &columns));
        // The most by which a sum in f32 over unit rows can be off.
        let unsure = left.width() as f64 * f64::from(f32::EPSILON);
        for (i, scores) in rows.zip(scores.chunks_exact(stride)) {
            let threshold = self.thresholds[i];
            for (j, score) in columns.clone().zip(scores) {
                let above = f64::from(*score) - threshold;
                let fits = match above.abs() > unsure {
                    true => above > 0.0,
                    false => exact(left.row(i), right.row(j)) > threshold,
                };
                if fits && i != j {
                    visit(i, j);
                }
            }
        }
    }

    /// What is compared with what; own documents are the first.
    fn sides(&self, between: Between) -> (&Embeddings, &Embeddings) {
        let TeacherVectors { queries, documents } = &self.vectors;
        match between {
            Between::QueriesAndDocuments => (queries, documents),
            Between::Queries => (queries, queries),
            Between::Documents => (documents, documents),
        }
    }
}

/// Inner products in f32, `[rows, stride]`, and the stride: the padded number of columns.
fn products(
    (left, rows): (&Embeddings, &Range<usize>),
    (right, columns): (&Embeddings, &Range<usize>),
) -> (Vec<f32>, usize) {
    let (e, stride) = (left.width(), columns.len().next_multiple_of(PANEL));
    let mut out = vec![0.0; rows.len() * stride];
    let columns = &right.values()[columns.start * e..columns.end * e];
    let values = &left.values()[rows.start * e..rows.end * e];
    let left = Left { values, row: e, step: 1 };
    multiply_add(left, &Panels::from_columns(columns, e), &mut out, stride);
    (out, stride)
}

/// The inner product in f64.
fn exact(a: &[f32], b: &[f32]) -> f64 {
    vectorized(|| inner_product(a, b))
}

#[cfg(test)]
mod tests;
