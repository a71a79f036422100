//! Softmax over rows and columns of a similarity matrix in two passes over its tiles.
//!
//! In:  tiles of logits (`tiles`); each row's and column's share of the loss.
//! Out: log-sum-exps of every row and column, and from them `dL/dlogit` in place of the logits.
//! Not here: which sums make a loss (`info_nce`, `joint`, `weighted`).

use conjoin_core::Embeddings;
use rayon::prelude::*;

use super::tiles::{Blocks, Tile, best_other};
use crate::kernels::{exp, sum_exp, vectorized};

/// `Σ exp(x)` kept as `exp(max) · sum`, which never overflows.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogSumExp {
    max: f32,
    sum: f64,
}

impl LogSumExp {
    const EMPTY: Self = Self { max: f32::MIN, sum: 0.0 };

    pub(super) fn add(&mut self, other: Self) {
        let max = self.max.max(other.max);
        self.sum = self.scaled_to(max) + other.scaled_to(max);
        self.max = max;
    }

    fn scaled_to(self, max: f32) -> f64 {
        self.sum * f64::from(self.max - max).exp()
    }

    /// `ln Σ exp(x)`.
    pub(super) fn value(self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }
}

/// The directions in which a softmax is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directions {
    /// Over the columns of each row.
    Rows,
    /// And over the rows of each of the first `b` columns.
    Both,
}

/// What the first pass learns of every row and column.
pub(super) struct Sums {
    /// Each pair's own logit, `[b]`.
    pub(super) own: Vec<f32>,
    /// The best logit of another document, `[b]`.
    best_other: Vec<f32>,
    /// `[b]`.
    pub(super) rows: Vec<LogSumExp>,
    /// Of the first `b` columns; empty where only rows were asked for.
    pub(super) columns: Vec<LogSumExp>,
}

/// One tile's share of a row.
struct RowPart {
    own: Option<f32>,
    best_other: f32,
    sum: LogSumExp,
}

impl Sums {
    /// Looks at every tile once.
    pub(super) fn of(blocks: &Blocks<'_>, directions: Directions) -> Self {
        let b = blocks.len();
        let columns = if directions == Directions::Both { b } else { 0 };
        let mut sums = Self {
            own: vec![0.0; b],
            best_other: vec![f32::MIN; b],
            rows: vec![LogSumExp::EMPTY; b],
            columns: vec![LogSumExp::EMPTY; columns],
        };
        blocks.for_each_strip(|_, strip| {
            let parts = look_at(strip, &mut sums.columns, blocks.block());
            for (tile, parts) in strip.iter().zip(parts) {
                sums.add(tile, parts);
            }
        });
        sums
    }

    fn add(&mut self, tile: &Tile, parts: Vec<RowPart>) {
        for (row, part) in tile.rows.clone().zip(parts) {
            self.rows[row].add(part.sum);
            self.best_other[row] = self.best_other[row].max(part.best_other);
            self.own[row] = part.own.unwrap_or(self.own[row]);
        }
    }

    /// Share of rows whose own logit is strictly above every other.
    pub(super) fn accuracy(&self) -> f64 {
        let rows = self.own.iter().zip(&self.best_other);
        rows.filter(|(own, other)| own > other).count() as f64 / self.own.len() as f64
    }
}

/// Adds a strip to the columns' sums and tells its rows', tile by tile.
fn look_at(strip: &[Tile], columns: &mut [LogSumExp], block: usize) -> Vec<Vec<RowPart>> {
    let n_with_columns = columns.len().div_ceil(block);
    let (with_columns, others) = strip.split_at(n_with_columns);
    let with_columns = with_columns.par_iter().zip(columns.par_chunks_mut(block));
    let with_columns = with_columns.map(|(tile, columns)| {
        vectorized(|| {
            add_columns(tile, columns);
            row_parts(tile)
        })
    });
    let others = others.par_iter().map(|tile| vectorized(|| row_parts(tile)));
    with_columns.chain(others).collect()
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

/// What turns a logit of a row or column into its part of `dL/dlogit`: `slope · exp(logit - max)`.
struct Slopes {
    max: Vec<f32>,
    slope: Vec<f32>,
}

impl Slopes {
    fn new(sums: &[LogSumExp], shares: &[f64]) -> Self {
        let slope = sums.iter().zip(shares).map(|(s, share)| (share / s.sum) as f32).collect();
        Self { max: sums.iter().map(|s| s.max).collect(), slope }
    }
}

/// The second pass: gradients of `Σ share · log-sum-exp` over rows and columns, and of the own
/// pairs' logits.
pub(super) struct Softmax {
    rows: Slopes,
    columns: Option<Slopes>,
    /// `dL/dlogit` of each own pair; empty where there is none.
    own: Vec<f32>,
}

impl Softmax {
    /// With these sums as denominators of the rows.
    ///
    /// # Shapes
    /// `sums`, `shares`: `[b]`
    pub(super) fn rows(sums: &[LogSumExp], shares: &[f64]) -> Self {
        Self { rows: Slopes::new(sums, shares), columns: None, own: Vec::new() }
    }

    /// And of the first `b` columns.
    pub(super) fn with_columns(self, sums: &[LogSumExp], shares: &[f64]) -> Self {
        Self { columns: Some(Slopes::new(sums, shares)), ..self }
    }

    /// And with this `dL/dlogit` of each own pair, `[b]`.
    pub(super) fn with_own(self, own: Vec<f32>) -> Self {
        Self { own, ..self }
    }

    /// The gradients of the rows `[b, e]` and of the columns `[n, e]`.
    pub(super) fn gradients(&self, blocks: &Blocks<'_>) -> (Embeddings, Embeddings) {
        blocks.gradients(|tile| vectorized(|| self.differentiate(tile)), |()| ())
    }

    #[inline(always)]
    fn differentiate(&self, tile: &mut Tile) {
        let columns = tile.columns.clone();
        let sides = self.columns.as_ref().filter(|sides| columns.end <= sides.max.len());
        for (i, row) in tile.rows_mut() {
            let (max, slope) = (self.rows.max[i], self.rows.slope[i]);
            if let Some(sides) = sides {
                let sides = sides.max[columns.clone()].iter().zip(&sides.slope[columns.clone()]);
                for (x, (column_max, column_slope)) in row.iter_mut().zip(sides) {
                    *x = exp(*x - max) * slope + exp(*x - *column_max) * *column_slope;
                }
            } else {
                row.iter_mut().for_each(|x| *x = exp(*x - max) * slope);
            }
            if columns.contains(&i) && !self.own.is_empty() {
                row[i - columns.start] = self.own[i];
            }
        }
    }
}
