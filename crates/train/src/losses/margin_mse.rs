//! MarginMSE: the distance between the own document and each hard negative shall be the teacher's.
//!
//! In:  queries `[b, e]`, documents `[b·(1+m), e]` with `m ≥ 1`; a teacher's scores `[b, 1+m]`, own
//!      documents first; `log_scale`, with `scale = exp(log_scale)`.
//! Out: `mean_ik((scale · (q_i·d_i - q_i·n_ik) - (t_i0 - t_ik))²)` and all gradients.
//! Not here: which scores a teacher gives (the data says it).
//! Source: Hofstätter et al. 2020; Wang et al. 2022 (GPL), eq. 2. Parity: `testdata/parity/losses`.
//!
//! Equal to sentence-transformers' MarginMSELoss at `log_scale = 0`, which is not learned there.
//! Pitfalls: inner products of unit rows differ by 2 at most; a cross-encoder's logits differ by
//! more, so let the scale be learned or start it near the spread of the teacher's scores.

use super::{Batch, LabelKind, Loss, LossScalar, Outcome, candidates::Candidates};

/// MarginMSE with one scale.
#[derive(Debug, Clone)]
pub struct MarginMse {
    log_scale: LossScalar,
}

impl MarginMse {
    /// The loss with the given scale.
    #[must_use]
    pub fn new(log_scale: LossScalar) -> Self {
        Self { log_scale }
    }
}

impl Loss for MarginMse {
    fn scalars(&self) -> Vec<LossScalar> {
        vec![self.log_scale]
    }

    fn needs(&self) -> LabelKind {
        LabelKind::TeacherScores
    }

    fn min_negatives(&self) -> usize {
        1
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        let &[log_scale] = scalars else { panic!("MarginMSE has one scalar: log_scale") };
        let candidates = Candidates::all(batch);
        let n = candidates.len();
        assert!(n > 1, "MarginMSE needs hard negatives");
        let (scores, scale) = (candidates.scores(), f64::from(log_scale.exp()));
        let mut d_scores = vec![0.0; scores.len()];
        let rows = scores.chunks_exact(n).zip(batch.teacher_scores().chunks_exact(n));
        let losses = rows
            .zip(d_scores.chunks_exact_mut(n))
            .map(|((student, teacher), d)| differentiate(student, teacher, scale, d));
        let n_margins = (scores.len() / n * (n - 1)) as f64;
        let loss = losses.sum::<f64>() / n_margins;
        d_scores.iter_mut().for_each(|d| *d *= scale / n_margins);
        let (d_queries, d_documents) = candidates.gradients(&d_scores);
        let d_log_scale = scores.iter().zip(&d_scores).map(|(s, d)| s * d).sum();
        let accuracy = candidates.accuracy(&scores);
        Outcome { loss, accuracy, d_queries, d_documents, d_scalars: vec![d_log_scale] }
    }
}

/// The sum of squares of one query, and its slopes by scaled scores.
fn differentiate(student: &[f64], teacher: &[f32], scale: f64, d_scores: &mut [f64]) -> f64 {
    let mut loss = 0.0;
    for k in 1..student.len() {
        let margin = scale * (student[0] - student[k]);
        let off = margin - (f64::from(teacher[0]) - f64::from(teacher[k]));
        loss += off * off;
        d_scores[0] += 2.0 * off;
        d_scores[k] = -2.0 * off;
    }
    loss
}

#[cfg(test)]
mod tests;
