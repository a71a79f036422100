//! InfoNCE: each query shall pick its own document among the batch's, and the other way round.
//!
//! In:  queries and documents `[b, e]`, unit rows; `log_scale`, with `scale = exp(log_scale) = 1/τ`.
//! Out: `CE_rows = mean_i(-log softmax_j(scale · q_i·d_j)[i])`, `CE_columns` likewise, reduced, and
//!      all gradients.
//! Not here: chunked towers (`grad_cache`).
//! Source: van den Oord et al. 2018; Radford et al. 2021, fig. 3. Parity: `testdata/parity/losses`.
//!
//! | reduction        | equal to                                                        |
//! |------------------|-----------------------------------------------------------------|
//! | `symmetric_mean` | CLIP, open_clip, transformers: half the sum of both directions   |
//! | `symmetric_sum`  | Jina CLIP: the sum; gradients are twice those of the mean        |
//! | `one_way`        | sentence-transformers' MultipleNegativesRankingLoss, default     |
//!
//! Pitfalls: repeated captions or images in a batch are false negatives unless their ids are
//! given; losses of different batch sizes are not comparable (`ln b` is the loss of guessing).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    LossScalar, PairLoss, PairOutcome, Pairs,
    tiles::{BLOCK, Blocks, Tile, best_other},
};
use crate::kernels::{exp, sum_exp, vectorized};

/// How the two directions become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean of query→document and document→query.
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
}

/// InfoNCE with one scale.
#[derive(Debug, Clone)]
pub struct InfoNce {
    reduction: Reduction,
    log_scale: LossScalar,
    block: usize,
}

impl InfoNce {
    /// The loss with the given reduction and scale.
    #[must_use]
    pub fn new(reduction: Reduction, log_scale: LossScalar) -> Self {
        Self { reduction, log_scale, block: BLOCK }
    }
}

impl PairLoss for InfoNce {
    fn scalars(&self) -> Vec<LossScalar> {
        vec![self.log_scale]
    }

    fn evaluate(&self, pairs: Pairs<'_>, scalars: &[f32]) -> PairOutcome {
        let &[log_scale] = scalars else { panic!("InfoNCE has one scalar: log_scale") };
        let blocks = Blocks::new(pairs, log_scale.exp(), self.block);
        let sums = sum_exponentials(&blocks);
        let slopes = slopes(&sums, self.reduction);
        let (d_queries, d_documents) =
            blocks.gradients(|tile| vectorized(|| differentiate(tile, &sums, &slopes)), |()| ());
        PairOutcome {
            loss: loss(&sums, self.reduction),
            accuracy: accuracy(&sums),
            d_scalars: vec![blocks.d_log_scale(&d_queries)],
            d_queries,
            d_documents,
        }
    }
}

/// `Σ exp(x)` kept as `exp(max) · sum`, which never overflows.
#[derive(Debug, Clone, Copy)]
struct LogSumExp {
    max: f32,
    sum: f64,
}

impl LogSumExp {
    const EMPTY: Self = Self { max: f32::MIN, sum: 0.0 };

    fn add(&mut self, other: Self) {
        let max = self.max.max(other.max);
        self.sum = self.scaled_to(max) + other.scaled_to(max);
        self.max = max;
    }

    fn scaled_to(self, max: f32) -> f64 {
        self.sum * f64::from(self.max - max).exp()
    }

    fn value(self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }
}

/// What the first pass learns of every row and column.
struct Sums {
    /// Each pair's own logit, `[b]`.
    own: Vec<f32>,
    /// The best logit of another document, `[b]`.
    best_other: Vec<f32>,
    rows: Vec<LogSumExp>,
    columns: Vec<LogSumExp>,
}

/// One tile's share of a row.
struct RowPart {
    own: Option<f32>,
    best_other: f32,
    sum: LogSumExp,
}

fn sum_exponentials(blocks: &Blocks<'_>) -> Sums {
    let b = blocks.len();
    let mut sums = Sums {
        own: vec![0.0; b],
        best_other: vec![f32::MIN; b],
        rows: vec![LogSumExp::EMPTY; b],
        columns: vec![LogSumExp::EMPTY; b],
    };
    blocks.for_each_strip(|_, strip| {
        let parts: Vec<Vec<RowPart>> = strip
            .par_iter()
            .zip(sums.columns.par_chunks_mut(blocks.block()))
            .map(|(tile, columns)| {
                vectorized(|| {
                    add_columns(tile, columns);
                    row_parts(tile)
                })
            })
            .collect();
        for (tile, parts) in strip.iter().zip(parts) {
            for (row, part) in tile.rows.clone().zip(parts) {
                sums.rows[row].add(part.sum);
                sums.best_other[row] = sums.best_other[row].max(part.best_other);
                sums.own[row] = part.own.unwrap_or(sums.own[row]);
            }
        }
    });
    sums
}

#[inline(always)]
fn row_parts(tile: &Tile) -> Vec<RowPart> {
    tile.rows()
        .map(|(i, row)| {
            let own = tile.own(i);
            let best_other = best_other(row, own);
            let own = own.map(|own| row[own]);
            let max = own.map_or(best_other, |own| own.max(best_other));
            RowPart { own, best_other, sum: LogSumExp { max, sum: sum_exp(row, max) } }
        })
        .collect()
}

#[inline(always)]
fn add_columns(tile: &Tile, columns: &mut [LogSumExp]) {
    let mut max = vec![f32::MIN; columns.len()];
    for (_, row) in tile.rows() {
        for (max, logit) in max.iter_mut().zip(row) {
            *max = if *logit > *max { *logit } else { *max };
        }
    }
    let mut sum = vec![0.0_f32; columns.len()];
    for (_, row) in tile.rows() {
        for ((sum, logit), max) in sum.iter_mut().zip(row).zip(&max) {
            *sum += exp(*logit - *max);
        }
    }
    for ((column, max), sum) in columns.iter_mut().zip(max).zip(sum) {
        column.add(LogSumExp { max, sum: f64::from(sum) });
    }
}

fn loss(sums: &Sums, reduction: Reduction) -> f64 {
    let mean = |sides: &[LogSumExp]| -> f64 {
        let losses = sides.iter().zip(&sums.own).map(|(s, own)| s.value() - f64::from(*own));
        losses.sum::<f64>() / count(sides.len())
    };
    let (rows, columns) = reduction.weights();
    let columns = if columns > 0.0 { columns * mean(&sums.columns) } else { 0.0 };
    rows * mean(&sums.rows) + columns
}

fn accuracy(sums: &Sums) -> f64 {
    let right = sums.own.iter().zip(&sums.best_other).filter(|(own, other)| own > other).count();
    count(right) / count(sums.own.len())
}

fn count(n: usize) -> f64 {
    n as f64
}

/// The factors that turn exponentials into `dL/dlogit`.
struct Slopes {
    /// `weight / (b · sum)` per row, `[b]`.
    rows: Vec<f32>,
    /// The same per column; empty when that direction is not used.
    columns: Vec<f32>,
    column_max: Vec<f32>,
    /// `dL/dlogit` of each matching pair, `[b]`.
    own: Vec<f32>,
}

fn slopes(sums: &Sums, reduction: Reduction) -> Slopes {
    let b = count(sums.own.len());
    let (row_weight, column_weight) = reduction.weights();
    let per = |sides: &[LogSumExp], weight: f64| -> Vec<f32> {
        sides.iter().map(|s| (weight / (b * s.sum)) as f32).collect()
    };
    let own = sums.own.iter().zip(sums.rows.iter().zip(&sums.columns)).map(|(own, (r, c))| {
        // p - 1 = exp(logit - lse) - 1, exact also where p is close to one.
        let miss = |side: &LogSumExp| (f64::from(*own) - side.value()).exp_m1();
        ((row_weight * miss(r) + column_weight * miss(c)) / b) as f32
    });
    let own = own.collect();
    let rows = per(&sums.rows, row_weight);
    if column_weight > 0.0 {
        let column_max = sums.columns.iter().map(|c| c.max).collect();
        Slopes { rows, columns: per(&sums.columns, column_weight), column_max, own }
    } else {
        Slopes { rows, columns: Vec::new(), column_max: Vec::new(), own }
    }
}

#[inline(always)]
fn differentiate(tile: &mut Tile, sums: &Sums, slopes: &Slopes) {
    let columns = tile.columns.clone();
    for (i, row) in tile.rows_mut() {
        let (max, slope) = (sums.rows[i].max, slopes.rows[i]);
        if slopes.columns.is_empty() {
            row.iter_mut().for_each(|x| *x = exp(*x - max) * slope);
        } else {
            let others =
                slopes.column_max[columns.clone()].iter().zip(&slopes.columns[columns.clone()]);
            for (x, (column_max, column_slope)) in row.iter_mut().zip(others) {
                *x = exp(*x - max) * slope + exp(*x - *column_max) * *column_slope;
            }
        }
        if columns.contains(&i) {
            row[i - columns.start] = slopes.own[i];
        }
    }
}

#[cfg(test)]
mod tests;
