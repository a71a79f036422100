//! Losses over embedding matrices, with their gradients in closed form.
//!
//! In:  query embeddings `[b, e]`, document embeddings `[b·(1+m), e]` (each query's own document,
//!      then `m` hard negatives of each query), labels where a loss needs them, and the loss's own
//!      learned scalars.
//! Out: the loss, `dL/dq`, `dL/dd`, `dL/dscalar`.
//! Not here: towers, chunking (`grad_cache`), updates (`adamw`). A new loss is a new file here.
//!
//! | file         | learns from                        | labels         |
//! |--------------|------------------------------------|----------------|
//! | `info_nce`   | the batch's other documents        | none           |
//! | `joint`      | other documents and other queries  | none           |
//! | `sigmoid`    | every pair on its own              | none           |
//! | `weighted`   | as `info_nce`, pairs count unequal | grades         |
//! | `cosent`     | the order of graded pairs          | grades         |
//! | `cosine`     | the grades themselves              | grades         |
//! | `margin_mse` | a teacher's margins                | teacher scores |
//! | `kl`         | a teacher's distribution           | teacher scores |
//! | `matryoshka` | any of them at several widths      | as the inner   |

mod candidates;
mod concordance;
mod contrast;
mod cosent;
mod cosine;
mod false_negatives;
#[cfg(test)]
mod golden;
mod info_nce;
mod joint;
mod kl;
mod margin_mse;
mod matryoshka;
mod sigmoid;
mod teacher;
mod tiles;
mod weighted;

use conjoin_core::Embeddings;
use serde::{Deserialize, Serialize};

pub use cosent::CoSent;
pub use cosine::Cosine;
pub use false_negatives::{Aspect, FalseNegatives};
pub use info_nce::{InfoNce, Reduction};
pub use joint::Joint;
pub use kl::{KlDistillation, Temperatures};
pub use margin_mse::MarginMse;
pub use matryoshka::{Matryoshka, MatryoshkaDim};
pub use sigmoid::Sigmoid;
pub use teacher::{TeacherThreshold, TeacherVectors};
pub use weighted::WeightedInfoNce;

/// A batch of embeddings of one task.
///
/// # Shapes
/// - `queries`: `[b, e]`, rows of unit length
/// - `documents`: `[b·(1+m), e]`, rows of unit length; row `i < b` is query `i`'s own, row
///   `b + i·m + k` its `k`-th hard negative
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The embeddings of one side.
    pub queries: &'a Embeddings,
    /// The embeddings of the other side: own documents, then hard negatives.
    pub documents: &'a Embeddings,
    /// The pairs that must not count as negatives.
    pub false_negatives: &'a FalseNegatives,
    /// What is known of the pairs besides that they match.
    pub labels: Labels<'a>,
}

impl Batch<'_> {
    /// Hard negatives per query, `m`.
    ///
    /// # Panics
    /// When there is no query, the widths differ, or the documents are not `1+m` per query.
    #[must_use]
    pub fn n_negatives(&self) -> usize {
        let (q, d) = (self.queries, self.documents);
        assert!(!q.is_empty(), "a batch has at least one query");
        assert_eq!(q.width(), d.width(), "queries and documents of one width");
        let whole = !d.is_empty() && d.len().is_multiple_of(q.len());
        assert!(whole, "{} documents for {} queries", d.len(), q.len());
        d.len() / q.len() - 1
    }

    /// The grades, `[b]`.
    fn grades(&self) -> &[f32] {
        let Labels::Grades(grades) = self.labels else { panic!("this loss needs grades") };
        assert_eq!(grades.len(), self.queries.len(), "one grade per query");
        grades
    }

    /// The teacher's scores, `[b, 1+m]`.
    fn teacher_scores(&self) -> &[f32] {
        let Labels::TeacherScores(scores) = self.labels else {
            panic!("this loss needs a teacher's scores")
        };
        assert_eq!(scores.len(), self.documents.len(), "one score per document");
        scores
    }
}

/// What is known of a batch's pairs besides that they match.
#[derive(Debug, Clone, Copy, Default)]
pub enum Labels<'a> {
    /// Nothing.
    #[default]
    None,
    /// How well each query and its own document match, `[b]`.
    Grades(&'a [f32]),
    /// A teacher's score of each query with its own document, then with its hard negatives,
    /// `[b, 1+m]`.
    TeacherScores(&'a [f32]),
}

/// Which labels a loss needs; others are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// None.
    None,
    /// [`Labels::Grades`].
    Grades,
    /// [`Labels::TeacherScores`].
    TeacherScores,
}

/// Which hard negatives a query is told apart from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// Those of every query of the batch (Jina CLIP's third stage).
    #[default]
    All,
    /// Its own only.
    Own,
}

/// What a loss says about a batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The loss.
    pub loss: f64,
    /// Contrastive and distilling losses: share of queries whose own document scores strictly above
    /// every other that counts. `cosent` and `cosine`: share of unequally graded pairs in the right
    /// order.
    pub accuracy: f64,
    /// `dL/dq`, `[b, e]`.
    pub d_queries: Embeddings,
    /// `dL/dd`, `[b·(1+m), e]`.
    pub d_documents: Embeddings,
    /// `dL/dscalar`, in the order of [`Loss::scalars`].
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

/// A loss of a batch, a pure function of the embeddings, their labels and its scalars.
///
/// [`Loss::needs`], [`Loss::min_negatives`] and [`Loss::min_width`] tell what every batch must have;
/// whoever checks them once, before the first step, meets none of the panics of [`Loss::evaluate`].
pub trait Loss: Send + Sync {
    /// The loss's own numbers, in the order [`Loss::evaluate`] takes them.
    fn scalars(&self) -> Vec<LossScalar>;

    /// The labels every batch must have.
    fn needs(&self) -> LabelKind;

    /// The fewest hard negatives per query a batch must have.
    fn min_negatives(&self) -> usize {
        0
    }

    /// The least width of the embeddings.
    fn min_width(&self) -> usize {
        1
    }

    /// The loss and its gradients.
    ///
    /// # Panics
    /// When the matrices do not fit each other, there is no query, labels that [`Loss::needs`] asks
    /// for are missing or of another number, hard negatives or dimensions are missing, or the
    /// number of scalars is wrong.
    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome;
}
