//! InfoNCE: each query shall pick its own document among the batch's, and the other way round.
//!
//! In:  queries `[b, e]` and documents `[b·(1+m), e]`, unit rows; `log_scale`, with
//!      `scale = exp(log_scale) = 1/τ`.
//! Out: `CE_rows = mean_i(-log softmax_j(scale · q_i·d_j)[i])` over own documents and hard
//!      negatives, `CE_columns` likewise over the queries of each own document, reduced, and all
//!      gradients.
//! Not here: chunked towers (`grad_cache`).
//! Source: van den Oord et al. 2018; Radford et al. 2021, fig. 3; Koukounas et al. 2024 (Jina CLIP),
//! eq. 1 and 2. Parity: `testdata/parity/losses`.
//!
//! | reduction        | equal to                                                        |
//! |------------------|-----------------------------------------------------------------|
//! | `symmetric_mean` | CLIP, open_clip, transformers: half the sum of both directions;  |
//! |                  | sentence-transformers with both directions, `per_direction`      |
//! | `symmetric_sum`  | Jina CLIP: the sum; gradients are twice those of the mean. With  |
//! |                  | hard negatives and `negatives = all` its third stage             |
//! | `one_way`        | sentence-transformers' MultipleNegativesRankingLoss, default     |
//!
//! Pitfalls: repeated captions or images in a batch are false negatives unless their ids are
//! given; losses of different batch sizes are not comparable (`ln b` is the loss of guessing).

use serde::{Deserialize, Serialize};

use super::{
    Batch, LabelKind, Loss, LossScalar, Negatives, Outcome,
    contrast::{Directions, LogSumExp, Softmax, Sums},
    tiles::{BLOCK, Blocks, Grid},
};

/// How the two directions become one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean of query→document and document→query.
    #[default]
    SymmetricMean,
    /// Their sum.
    SymmetricSum,
    /// Query→document only.
    OneWay,
}

impl Reduction {
    /// Weights of the directions query→document and document→query.
    fn weights(self) -> (f64, f64) {
        match self {
            Self::SymmetricMean => (0.5, 0.5),
            Self::SymmetricSum => (1.0, 1.0),
            Self::OneWay => (1.0, 0.0),
        }
    }

    fn directions(self) -> Directions {
        if self == Self::OneWay { Directions::Rows } else { Directions::Both }
    }
}

/// InfoNCE with one scale.
#[derive(Debug, Clone)]
pub struct InfoNce {
    reduction: Reduction,
    negatives: Negatives,
    log_scale: LossScalar,
    block: usize,
}

impl InfoNce {
    /// The loss with the given reduction and scale; every query is told apart from the hard
    /// negatives of all.
    #[must_use]
    pub fn new(reduction: Reduction, log_scale: LossScalar) -> Self {
        Self { reduction, negatives: Negatives::All, log_scale, block: BLOCK }
    }

    /// The same with other hard negatives.
    #[must_use]
    pub fn with_negatives(self, negatives: Negatives) -> Self {
        Self { negatives, ..self }
    }

    /// The loss with each pair's share of it, `[b]`.
    pub(super) fn evaluate_shares(
        &self,
        batch: Batch<'_>,
        scalars: &[f32],
        shares: &[f64],
    ) -> Outcome {
        let &[log_scale] = scalars else { panic!("InfoNCE has one scalar: log_scale") };
        let grid = Grid::queries_documents(batch, self.negatives);
        let blocks = Blocks::new(grid, log_scale.exp(), self.block);
        let sums = Sums::of(&blocks, self.reduction.directions());
        let sides = Sides::new(&sums, self.reduction, shares);
        let (d_queries, d_documents) = sides.softmax().gradients(&blocks);
        Outcome {
            loss: sides.loss(),
            accuracy: sums.accuracy(),
            d_scalars: vec![blocks.d_log_scale(&d_queries)],
            d_queries,
            d_documents,
        }
    }
}

impl Loss for InfoNce {
    fn scalars(&self) -> Vec<LossScalar> {
        vec![self.log_scale]
    }

    fn needs(&self) -> LabelKind {
        LabelKind::None
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        let b = batch.queries.len();
        self.evaluate_shares(batch, scalars, &vec![1.0 / b as f64; b])
    }
}

/// The cross entropies of rows and, where they count, of columns, with their shares of the loss.
struct Sides<'a> {
    own: &'a [f32],
    rows: (&'a [LogSumExp], Vec<f64>),
    columns: Option<(&'a [LogSumExp], Vec<f64>)>,
}

impl<'a> Sides<'a> {
    fn new(sums: &'a Sums, reduction: Reduction, shares: &[f64]) -> Self {
        let (row_weight, column_weight) = reduction.weights();
        let weighted = |weight: f64| shares.iter().map(|share| weight * share).collect();
        let columns = reduction.directions() == Directions::Both;
        Self {
            own: &sums.own,
            rows: (&sums.rows, weighted(row_weight)),
            columns: columns.then(|| (sums.columns.as_slice(), weighted(column_weight))),
        }
    }

    fn sides(&self) -> impl Iterator<Item = (&[LogSumExp], &[f64])> {
        [Some(&self.rows), self.columns.as_ref()].into_iter().flatten().map(|(s, w)| (*s, &w[..]))
    }

    fn loss(&self) -> f64 {
        let side = |(sums, shares): (&[LogSumExp], &[f64])| -> f64 {
            let entropies = sums.iter().zip(self.own).map(|(s, own)| s.value() - f64::from(*own));
            entropies.zip(shares).map(|(entropy, share)| entropy * share).sum()
        };
        self.sides().map(side).sum()
    }

    fn softmax(&self) -> Softmax {
        let mut own = vec![0.0_f64; self.own.len()];
        for (sums, shares) in self.sides() {
            for (((slope, logit), sum), share) in own.iter_mut().zip(self.own).zip(sums).zip(shares)
            {
                // p - 1 = exp(logit - lse) - 1, exact also where p is close to one.
                *slope += share * (f64::from(*logit) - sum.value()).exp_m1();
            }
        }
        let softmax = Softmax::rows(self.rows.0, &self.rows.1)
            .with_own(own.into_iter().map(|slope| slope as f32).collect());
        match &self.columns {
            Some((sums, shares)) => softmax.with_columns(sums, shares),
            None => softmax,
        }
    }
}

#[cfg(test)]
mod tests;
