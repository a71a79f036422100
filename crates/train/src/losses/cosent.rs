//! CoSENT: a pair with a higher grade shall have a higher cosine, whatever the grades are.
//!
//! In:  queries `[b, e]` and their own documents, unit rows; a grade per pair, `[b]`; `log_scale`,
//!      with `scale = exp(log_scale) = 1/τ`.
//! Out: `ln(1 + Σ exp(s_i - s_j))` over all pairs of pairs with `grade_i < grade_j`, where
//!      `s_i = scale · q_i·d_i`, and all gradients. Hard negatives get none.
//! Not here: the grades' values (`cosine`).
//! Source: Su 2022; Huang et al. 2024. Parity: `testdata/parity/losses`.
//!
//! Equal to sentence-transformers' CoSENTLoss (scale 20); its gradients are these without their
//! part along the row, which the towers' normalisation takes away.
//! Pitfalls: it is a sum, so it grows with the batch; equal grades teach nothing about each other.

use super::{
    Batch, LabelKind, Loss, LossScalar, Outcome, candidates::Candidates, concordance::concordance,
};

/// CoSENT with one scale.
#[derive(Debug, Clone)]
pub struct CoSent {
    log_scale: LossScalar,
}

impl CoSent {
    /// The loss with the given scale.
    #[must_use]
    pub fn new(log_scale: LossScalar) -> Self {
        Self { log_scale }
    }
}

impl Loss for CoSent {
    fn scalars(&self) -> Vec<LossScalar> {
        vec![self.log_scale]
    }

    fn needs(&self) -> LabelKind {
        LabelKind::Grades
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        let &[log_scale] = scalars else { panic!("CoSENT has one scalar: log_scale") };
        let (candidates, grades) = (Candidates::own(batch), batch.grades());
        let (cosines, scale) = (candidates.scores(), f64::from(log_scale.exp()));
        let scores: Vec<f64> = cosines.iter().map(|cosine| scale * cosine).collect();
        let (loss, slopes) = differentiate(&scores, grades);
        let d_scores: Vec<f64> = slopes.iter().map(|slope| scale * slope).collect();
        let (d_queries, d_documents) = candidates.gradients(&d_scores);
        let d_log_scale = scores.iter().zip(&slopes).map(|(s, slope)| s * slope).sum();
        let accuracy = concordance(&cosines, grades);
        Outcome { loss, accuracy, d_queries, d_documents, d_scalars: vec![d_log_scale] }
    }
}

/// The loss and its slopes by the scaled scores, in `O(b ln b)`.
fn differentiate(scores: &[f64], grades: &[f32]) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..grades.len()).collect();
    order.sort_by(|i, j| grades[*i].total_cmp(&grades[*j]));
    let below = log_sums_before(&order, grades, scores);
    order.reverse();
    let mirrored: Vec<f64> = scores.iter().map(|s| -s).collect();
    let above = log_sums_before(&order, grades, &mirrored);
    let mut total = LogSum { max: 0.0, sum: 1.0 };
    for i in 0..scores.len() {
        total.add(scores[i] + above[i]);
    }
    let loss = total.value();
    let slope = |i: usize| {
        let (lower, higher) = (scores[i] + above[i] - loss, mirrored[i] + below[i] - loss);
        lower.exp() - higher.exp()
    };
    (loss, (0..scores.len()).map(slope).collect())
}

/// For each pair, `ln Σ exp(score)` over the pairs of another grade that come before it, `[b]`;
/// minus infinity where there is none.
fn log_sums_before(order: &[usize], grades: &[f32], scores: &[f64]) -> Vec<f64> {
    let mut before = vec![f64::NEG_INFINITY; scores.len()];
    let mut sum = LogSum { max: f64::NEG_INFINITY, sum: 0.0 };
    for equal in order.chunk_by(|i, j| grades[*i] == grades[*j]) {
        equal.iter().for_each(|i| before[*i] = sum.value());
        equal.iter().for_each(|i| sum.add(scores[*i]));
    }
    before
}

/// `Σ exp(x)` kept as `exp(max) · sum`.
#[derive(Clone, Copy)]
struct LogSum {
    max: f64,
    sum: f64,
}

impl LogSum {
    fn add(&mut self, x: f64) {
        if x > self.max {
            self.sum = self.sum * (self.max - x).exp() + 1.0;
            self.max = x;
        } else if x > f64::NEG_INFINITY || x.is_nan() {
            self.sum += (x - self.max).exp();
        }
    }

    fn value(self) -> f64 {
        self.max + self.sum.ln()
    }
}

#[cfg(test)]
mod tests;
