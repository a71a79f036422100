//! Sigmoid loss: every pair of the batch is judged on its own, matching or not.
//!
//! In:  queries `[b, e]` and documents `[b·(1+m), e]`, unit rows; `log_scale` and `bias`.
//! Out: `-1/b · Σ_ij log σ(z_ij (scale · q_i·d_j + bias))`, `z = 1` for own documents and -1
//!      elsewhere, hard negatives included, and all gradients.
//! Not here: chunked towers (`grad_cache`).
//! Source: Zhai et al. 2023, eq. 1; without hard negatives open_clip's SigLipLoss. Parity: `testdata/parity/losses`.
//!
//! Pitfalls: the sum is divided by `b`, not `b²`; a bias far from `-ln b` makes a bad start.

use super::{
    Batch, LabelKind, Loss, LossScalar, Negatives, Outcome,
    tiles::{BLOCK, Blocks, Grid, LEFT_OUT, Tile, best_other},
};
use crate::kernels::{exp, vectorized};

/// The sigmoid loss with one scale and one bias.
#[derive(Debug, Clone)]
pub struct Sigmoid {
    negatives: Negatives,
    log_scale: LossScalar,
    bias: LossScalar,
    block: usize,
}

impl Sigmoid {
    /// The loss with the given scalars; every query is judged with the hard negatives of all.
    #[must_use]
    pub fn new(log_scale: LossScalar, bias: LossScalar) -> Self {
        Self { negatives: Negatives::All, log_scale, bias, block: BLOCK }
    }

    /// The same with other hard negatives.
    #[must_use]
    pub fn with_negatives(self, negatives: Negatives) -> Self {
        Self { negatives, ..self }
    }
}

impl Loss for Sigmoid {
    fn scalars(&self) -> Vec<LossScalar> {
        vec![self.log_scale, self.bias]
    }

    fn needs(&self) -> LabelKind {
        LabelKind::None
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        let &[log_scale, bias] = scalars else { panic!("the scalars are log_scale and bias") };
        let grid = Grid::queries_documents(batch, self.negatives);
        let blocks = Blocks::new(grid, log_scale.exp(), self.block);
        let b = blocks.len();
        let mut total = Total { rows: vec![(f32::MIN, f32::MIN); b], loss: 0.0, d_bias: 0.0 };
        let n = b as f32;
        let (d_queries, d_documents) = blocks.gradients(
            |tile| vectorized(|| differentiate(tile, bias, 1.0 / n)),
            |part| total.add(part),
        );
        let right = total.rows.iter().filter(|(own, other)| own > other).count();
        let accuracy = right as f64 / b as f64;
        Outcome {
            loss: total.loss / f64::from(n),
            accuracy,
            d_scalars: vec![blocks.d_log_scale(&d_queries), total.d_bias],
            d_queries,
            d_documents,
        }
    }
}

/// What one tile adds to a row: its own logit, the best other one, loss and slope.
struct RowPart {
    row: usize,
    own: f32,
    best_other: f32,
    loss: f64,
    d_bias: f64,
}

struct Total {
    /// Own logit and best other one, `[b]`.
    rows: Vec<(f32, f32)>,
    loss: f64,
    d_bias: f64,
}

impl Total {
    fn add(&mut self, parts: Vec<RowPart>) {
        for part in parts {
            let (own, best_other) = &mut self.rows[part.row];
            *own = own.max(part.own);
            *best_other = best_other.max(part.best_other);
            self.loss += part.loss;
            self.d_bias += part.d_bias;
        }
    }
}

#[inline(always)]
fn differentiate(tile: &mut Tile, bias: f32, weight: f32) -> Vec<RowPart> {
    let columns = tile.columns.clone();
    let mut parts = Vec::with_capacity(tile.rows.len());
    for (i, row) in tile.rows_mut() {
        let own_idx = columns.contains(&i).then(|| i - columns.start);
        let best_other = best_other(row, own_idx);
        let own = own_idx.map_or(f32::MIN, |own| row[own]);
        // A matching pair counts as the mirrored logit of a pair that does not match.
        row.iter_mut().for_each(|x| *x = if *x == LEFT_OUT { LEFT_OUT } else { *x + bias });
        if let Some(own) = own_idx {
            row[own] = -row[own];
        }
        let loss = softplus(row);
        row.iter_mut().for_each(|x| *x = logistic(*x) * weight);
        if let Some(own) = own_idx {
            row[own] = -row[own];
        }
        let d_bias = row.iter().map(|x| f64::from(*x)).sum();
        parts.push(RowPart { row: i, own, best_other, loss, d_bias });
    }
    parts
}

/// `Σ ln(1 + exp(x))` of a short row: `max(x, 0) + ln(1 + exp(-|x|))`, one logarithm for all.
#[inline(always)]
fn softplus(row: &[f32]) -> f64 {
    let (mut linear, mut product) = ([0.0_f64; 16], [1.0_f64; 16]);
    for part in row.chunks(16) {
        for ((linear, product), x) in linear.iter_mut().zip(&mut product).zip(part) {
            *linear += f64::from(x.max(0.0));
            *product *= 1.0 + f64::from(exp(-x.abs()));
        }
    }
    // Each factor is at most 2 and a row of a tile has at most 128, so nothing overflows.
    linear.iter().sum::<f64>() + product.iter().product::<f64>().ln()
}

#[inline(always)]
fn logistic(x: f32) -> f32 {
    let small = exp(-x.abs());
    let numerator = if x < 0.0 { small } else { 1.0 };
    numerator / (1.0 + small)
}

#[cfg(test)]
mod tests;
