//! The improved contrastive loss of GTE: one denominator over both kinds of both sides.
//!
//! In:  queries `[b, e]` and documents `[b·(1+m), e]`, unit rows; `log_scale`, with
//!      `scale = exp(log_scale) = 1/τ`.
//! Out: `mean_i(ln Z_i - s(q_i, d_i))`, `s` the scaled cosine, and all gradients, with
//!      `Z_i = Σ_j e^s(q_i,d_j) + Σ_{j≠i} e^s(q_i,q_j) + Σ_j e^s(q_j,d_i) + Σ_{j≠i} e^s(d_i,d_j)`.
//!      Documents `d_j` of the first and last sum are own ones and hard negatives; the last leaves
//!      out query `i`'s own hard negatives; `d_i` is always the own document.
//! Not here: one denominator per direction (`info_nce`).
//! Source: Li et al. 2023 (GTE, arXiv 2308.03281), section 3.3. Parity: `testdata/parity/losses`.
//!
//! Equal to sentence-transformers' MultipleNegativesRankingLoss with all four directions, `joint`.
//! Pitfalls: the own pair stands in two of the sums, so the loss is at least `ln 2`.

use conjoin_core::Embeddings;

use super::{
    Batch, LabelKind, Loss, LossScalar, Negatives, Outcome,
    contrast::{Directions, LogSumExp, Softmax, Sums},
    tiles::{BLOCK, Blocks, Grid},
};

/// GTE's loss with one scale.
#[derive(Debug, Clone)]
pub struct Joint {
    log_scale: LossScalar,
    block: usize,
}

impl Joint {
    /// The loss with the given scale.
    #[must_use]
    pub fn new(log_scale: LossScalar) -> Self {
        Self { log_scale, block: BLOCK }
    }
}

impl Loss for Joint {
    fn scalars(&self) -> Vec<LossScalar> {
        vec![self.log_scale]
    }

    fn needs(&self) -> LabelKind {
        LabelKind::None
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        let &[log_scale] = scalars else { panic!("the joint loss has one scalar: log_scale") };
        let blocks = |grid| Blocks::new(grid, log_scale.exp(), self.block);
        let across = blocks(Grid::queries_documents(batch, Negatives::All));
        let queries = blocks(Grid::queries(batch));
        let documents = blocks(Grid::documents(batch));
        let sums = Sums::of(&across, Directions::Both);
        let within = [&queries, &documents].map(|blocks| Sums::of(blocks, Directions::Rows).rows);
        let total = total(&sums, &within);
        let softmax = Softmaxes::new(&sums.own, &total);

        let (mut d_queries, mut d_documents) = softmax.across.gradients(&across);
        let mut d_log_scale = across.d_log_scale(&d_queries);
        let (d_rows, d_columns) = softmax.within.gradients(&queries);
        d_log_scale += queries.d_log_scale(&d_rows);
        [d_rows, d_columns].iter().for_each(|part| add(&mut d_queries, part));
        let (d_rows, d_columns) = softmax.within.gradients(&documents);
        d_log_scale += documents.d_log_scale(&d_rows);
        [d_rows, d_columns].iter().for_each(|part| add(&mut d_documents, part));
        Outcome {
            loss: loss(&sums.own, &total),
            accuracy: sums.accuracy(),
            d_queries,
            d_documents,
            d_scalars: vec![d_log_scale],
        }
    }
}

/// `Z_i`: all rows, and the columns of queries against documents.
fn total(across: &Sums, within: &[Vec<LogSumExp>; 2]) -> Vec<LogSumExp> {
    let mut total = across.rows.clone();
    for others in [&across.columns, &within[0], &within[1]] {
        total.iter_mut().zip(others).for_each(|(total, other)| total.add(*other));
    }
    total
}

fn loss(own: &[f32], total: &[LogSumExp]) -> f64 {
    let losses = total.iter().zip(own).map(|(z, own)| z.value() - f64::from(*own));
    losses.sum::<f64>() / own.len() as f64
}

struct Softmaxes {
    across: Softmax,
    within: Softmax,
}

impl Softmaxes {
    fn new(own: &[f32], total: &[LogSumExp]) -> Self {
        let share = 1.0 / own.len() as f64;
        let shares = vec![share; own.len()];
        // The own pair is counted by row and by column: 2p - 1.
        let own = own.iter().zip(total).map(|(own, z)| {
            let log_p = f64::from(*own) - z.value();
            (share * (log_p.exp() + log_p.exp_m1())) as f32
        });
        let across = Softmax::rows(total, &shares).with_columns(total, &shares);
        Self { across: across.with_own(own.collect()), within: Softmax::rows(total, &shares) }
    }
}

/// Adds to the first rows.
fn add(sum: &mut Embeddings, part: &Embeddings) {
    sum.values_mut().iter_mut().zip(part.values()).for_each(|(sum, part)| *sum += part);
}

#[cfg(test)]
mod tests;
