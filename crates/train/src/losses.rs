//! Losses over embedding matrices, with their gradients in closed form.
//!
//! In:  query and document embeddings `[b, e]`, row `i` of one matching row `i` of the other, and
//!      the loss's own learned scalars.
//! Out: the loss, `dL/dq`, `dL/dd`, `dL/dscalar`.
//! Not here: towers, chunking (`grad_cache`), updates (`adamw`). A new loss is a new file here.

mod false_negatives;
#[cfg(test)]
mod golden;
mod info_nce;
mod sigmoid;
mod tiles;

use conjoin_core::Embeddings;

pub use false_negatives::FalseNegatives;
pub use info_nce::{InfoNce, Reduction};
pub use sigmoid::Sigmoid;

/// Matched rows of two embedding matrices.
///
/// # Shapes
/// `queries` and `documents`: `[b, e]`, rows of unit length; row `i` matches row `i`.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a> {
    /// The embeddings of one side.
    pub queries: &'a Embeddings,
    /// The embeddings of the other side.
    pub documents: &'a Embeddings,
    /// The pairs `(i, j)` that must not count as negatives.
    pub false_negatives: &'a FalseNegatives,
}

/// What a loss says about a batch.
#[derive(Debug, Clone)]
pub struct PairOutcome {
    /// The loss.
    pub loss: f64,
    /// Share of queries whose own document scores strictly above every other that counts.
    pub accuracy: f64,
    /// `dL/dq`, `[b, e]`.
    pub d_queries: Embeddings,
    /// `dL/dd`, `[b, e]`.
    pub d_documents: Embeddings,
    /// `dL/dscalar`, in the order of [`PairLoss::scalars`].
    pub d_scalars: Vec<f64>,
}

/// A number that belongs to the loss, trained with the towers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScalar {
    /// Its name (`log_scale`).
    pub name: &'static str,
    /// The value training starts from.
    pub init: f32,
    /// The lowest value it may take after a step.
    pub min: f32,
    /// The highest value it may take after a step.
    pub max: f32,
    /// Whether it is trained.
    pub learned: bool,
}

/// A loss between matched rows, a pure function of the embeddings and its scalars.
pub trait PairLoss: Send + Sync {
    /// The loss's own numbers, in the order [`PairLoss::evaluate`] takes them.
    fn scalars(&self) -> Vec<LossScalar>;

    /// The loss and its gradients.
    ///
    /// # Panics
    /// When the matrices have different shapes or no row, or the scalars' number is wrong.
    fn evaluate(&self, pairs: Pairs<'_>, scalars: &[f32]) -> PairOutcome;
}
