//! Distillation of a distribution: the student shall spread its scores as the teacher does.
//!
//! In:  queries `[b, e]`, documents `[b·(1+m), e]` with `m ≥ 1`; a teacher's scores `[b, 1+m]`, own
//!      documents first; one temperature for each.
//! Out: `T_s² · mean_i KL(softmax(t_i / T_t) ‖ softmax(q_i·d_i / T_s))` over each query's own
//!      document and hard negatives, and all gradients.
//! Not here: which scores a teacher gives (the data says it).
//! Source: Hinton et al. 2015; Lin et al. 2020 (arXiv 2010.11386). Parity: `testdata/parity/losses`.
//!
//! Equal to sentence-transformers' DistillKLDivLoss.
//! Pitfalls: unit rows spread their inner products over 2 at most, so a student's temperature is
//! well below 1 (0.05, as of InfoNCE); the factor `T_s²` then makes the loss a small number.

use serde::{Deserialize, Serialize};

use super::{Batch, LabelKind, Loss, LossScalar, Outcome, candidates::Candidates};

/// What scores are divided by before the softmax, both above 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperatures {
    /// The student's inner products.
    pub student: f32,
    /// The teacher's scores.
    pub teacher: f32,
}

/// The divergence of a student's distribution from a teacher's.
#[derive(Debug, Clone)]
pub struct KlDistillation {
    temperatures: Temperatures,
}

impl KlDistillation {
    /// The loss with the given temperatures.
    #[must_use]
    pub fn new(temperatures: Temperatures) -> Self {
        Self { temperatures }
    }
}

impl Loss for KlDistillation {
    fn scalars(&self) -> Vec<LossScalar> {
        Vec::new()
    }

    fn needs(&self) -> LabelKind {
        LabelKind::TeacherScores
    }

    fn min_negatives(&self) -> usize {
        1
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        assert!(scalars.is_empty(), "the distillation has no scalars");
        let candidates = Candidates::all(batch);
        let n = candidates.len();
        assert!(n > 1, "a distribution over one document teaches nothing");
        let scores = candidates.scores();
        let [t_s, t_t] = [self.temperatures.student, self.temperatures.teacher].map(f64::from);
        let b = (scores.len() / n) as f64;
        let (mut loss, mut d_scores) = (0.0, Vec::with_capacity(scores.len()));
        let rows = scores.chunks_exact(n).zip(batch.teacher_scores().chunks_exact(n));
        for (student, teacher) in rows {
            let student = log_softmax(student.iter().map(|s| s / t_s).collect());
            let teacher = log_softmax(teacher.iter().map(|t| f64::from(*t) / t_t).collect());
            for (student, teacher) in student.iter().zip(&teacher) {
                let p = teacher.exp();
                // p ln p is 0 for a p of 0.
                loss += if p > 0.0 { p * (teacher - student) } else { p };
                d_scores.push(t_s / b * (student.exp() - p));
            }
        }
        let (d_queries, d_documents) = candidates.gradients(&d_scores);
        let (loss, accuracy) = (t_s * t_s / b * loss, candidates.accuracy(&scores));
        Outcome { loss, accuracy, d_queries, d_documents, d_scalars: Vec::new() }
    }
}

fn log_softmax(mut row: Vec<f64>) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter_mut().for_each(|x| *x -= log_sum);
    row
}

#[cfg(test)]
mod tests;
