//! Scores of each query with its own few documents, for losses that look at nothing else.
//!
//! In:  a batch. Out: inner products `[b, n]`; from `dL/dscore`, the gradients of both sides.
//! Not here: similarities between different pairs (`tiles`).

use conjoin_core::Embeddings;
use rayon::prelude::*;

use super::Batch;
use crate::kernels::{inner_product, vectorized};

/// Each query's candidates: its own document and the first of its hard negatives.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    batch: Batch<'a>,
    m: usize,
    /// Candidates per query, own document included.
    n: usize,
}

impl<'a> Candidates<'a> {
    /// Only the own document: `n = 1`.
    pub(super) fn own(batch: Batch<'a>) -> Self {
        Self { batch, m: batch.n_negatives(), n: 1 }
    }

    /// The own document and all of its hard negatives: `n = 1+m`.
    pub(super) fn all(batch: Batch<'a>) -> Self {
        let m = batch.n_negatives();
        Self { batch, m, n: m + 1 }
    }

    /// Candidates per query.
    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// The document row of a query's candidate.
    fn row(&self, query: usize, candidate: usize) -> usize {
        match candidate {
            0 => query,
            k => self.batch.queries.len() + query * self.m + k - 1,
        }
    }

    /// The inner products, `[b, n]`, own documents first.
    pub(super) fn scores(&self) -> Vec<f64> {
        let Batch { queries, documents, .. } = self.batch;
        let all = (0..queries.len() * self.n).into_par_iter();
        let score = |at: usize| {
            let query = at / self.n;
            let (q, d) = (queries.row(query), documents.row(self.row(query, at % self.n)));
            vectorized(|| inner_product(q, d))
        };
        all.with_min_len(64).map(score).collect()
    }

    /// `dL/dq` and `dL/dd` from `dL/dscore`, `[b, n]`.
    pub(super) fn gradients(&self, d_scores: &[f64]) -> (Embeddings, Embeddings) {
        let Batch { queries, documents, .. } = self.batch;
        let mut d_queries = Embeddings::zeros(queries.len(), queries.width());
        let mut d_documents = Embeddings::zeros(documents.len(), documents.width());
        for (query, d_scores) in d_scores.chunks_exact(self.n).enumerate() {
            for (candidate, d_score) in d_scores.iter().enumerate() {
                let (row, slope) = (self.row(query, candidate), *d_score as f32);
                add_scaled(d_queries.row_mut(query), documents.row(row), slope);
                add_scaled(d_documents.row_mut(row), queries.row(query), slope);
            }
        }
        (d_queries, d_documents)
    }

    /// Share of queries whose own document scores strictly above its hard negatives.
    pub(super) fn accuracy(&self, scores: &[f64]) -> f64 {
        let right = |row: &&[f64]| row[1..].iter().all(|other| row[0] > *other);
        scores.chunks_exact(self.n).filter(right).count() as f64 / self.batch.queries.len() as f64
    }
}

fn add_scaled(sum: &mut [f32], row: &[f32], factor: f32) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
}
