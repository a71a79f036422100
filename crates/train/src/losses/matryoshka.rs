//! Matryoshka: a loss at several widths at once, so that embeddings may be cut.
//!
//! In:  as the inner loss; widths with weights.
//! Out: `Σ_w weight_w · L(normalise(q[:, :w]), normalise(d[:, :w]))`, and all gradients, also
//!      through the normalisation. Accuracy is that of the largest width.
//! Not here: the inner loss; cutting finished embeddings (`conjoin_core::Embeddings::cut`).
//! Source: Kusupati et al. 2022. Parity: `testdata/parity/losses`.
//!
//! Equal to sentence-transformers' MatryoshkaLoss.
//! Pitfalls: the full width is trained only where it is one of the widths; a row that is zero up to
//! a width stays zero there and gets no gradient from it.

use conjoin_core::Embeddings;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Batch, LabelKind, Loss, LossScalar, Outcome};
use crate::kernels::{inner_product, sum_of_squares, vectorized};

/// A width and how much it counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatryoshkaDim {
    /// The numbers kept of each embedding, at least 1 and at most `e`.
    pub dim: usize,
    /// The factor of its loss, above 0.
    pub weight: f64,
}

/// Another loss at several widths.
pub struct Matryoshka {
    dims: Vec<MatryoshkaDim>,
    inner: Box<dyn Loss>,
}

impl Matryoshka {
    /// The loss at these widths.
    ///
    /// # Panics
    /// When there is no width, or one is zero.
    #[must_use]
    pub fn new(dims: Vec<MatryoshkaDim>, inner: Box<dyn Loss>) -> Self {
        assert!(!dims.is_empty(), "at least one width");
        assert!(dims.iter().all(|at| at.dim > 0), "an embedding has at least one dimension");
        Self { dims, inner }
    }
}

impl Loss for Matryoshka {
    fn scalars(&self) -> Vec<LossScalar> {
        self.inner.scalars()
    }

    fn needs(&self) -> LabelKind {
        self.inner.needs()
    }

    fn min_negatives(&self) -> usize {
        self.inner.min_negatives()
    }

    fn min_width(&self) -> usize {
        let largest = self.dims.iter().map(|at| at.dim).max();
        largest.unwrap_or(1).max(self.inner.min_width())
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        let (queries, documents) = (batch.queries, batch.documents);
        let width = queries.width();
        assert!(self.min_width() <= width, "embeddings are narrower than the largest width");
        let mut sum = Outcome {
            loss: 0.0,
            accuracy: 0.0,
            d_queries: Embeddings::zeros(queries.len(), width),
            d_documents: Embeddings::zeros(documents.len(), width),
            d_scalars: vec![0.0; scalars.len()],
        };
        for at in &self.dims {
            let (q, d) = (Cut::new(queries, at.dim), Cut::new(documents, at.dim));
            let cut = Batch { queries: &q.rows, documents: &d.rows, ..batch };
            let outcome = self.inner.evaluate(cut, scalars);
            sum.loss += at.weight * outcome.loss;
            q.add_gradient(outcome.d_queries, at.weight, &mut sum.d_queries);
            d.add_gradient(outcome.d_documents, at.weight, &mut sum.d_documents);
            for (sum, d) in sum.d_scalars.iter_mut().zip(outcome.d_scalars) {
                *sum += at.weight * d;
            }
            if at.dim == self.min_width() {
                sum.accuracy = outcome.accuracy;
            }
        }
        sum
    }
}

/// The beginnings of rows, scaled to unit length.
struct Cut {
    /// `[n, dim]`.
    rows: Embeddings,
    /// 1 / the beginnings' lengths; 0 for a row of zeros.
    scales: Vec<f64>,
}

impl Cut {
    fn new(from: &Embeddings, dim: usize) -> Self {
        let mut rows = Embeddings::zeros(from.len(), dim);
        let values = rows.values_mut().par_chunks_exact_mut(dim);
        let from = from.values().par_chunks_exact(from.width());
        let scales = values.zip(from).map(|(row, from)| {
            let norm = vectorized(|| sum_of_squares(&from[..dim])).sqrt();
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            row.iter_mut().zip(from).for_each(|(x, from)| *x = (f64::from(*from) * scale) as f32);
            scale
        });
        let scales = scales.collect();
        Self { rows, scales }
    }

    /// Adds `weight · (g - (g·y) y) / length` for each row `y` and its gradient `g`.
    fn add_gradient(&self, gradient: Embeddings, weight: f64, into: &mut Embeddings) {
        let (dim, width) = (self.rows.width(), into.width());
        let rows = self.rows.values().par_chunks_exact(dim).zip(&self.scales);
        let rows = rows.zip(gradient.values().par_chunks_exact(dim));
        let into = into.values_mut().par_chunks_exact_mut(width);
        into.zip(rows).for_each(|(into, ((row, scale), gradient))| {
            let along = vectorized(|| inner_product(row, gradient));
            let factor = weight * scale;
            for ((into, y), g) in into.iter_mut().zip(row).zip(gradient) {
                *into += (factor * (f64::from(*g) - along * f64::from(*y))) as f32;
            }
        });
    }
}

#[cfg(test)]
mod tests;
