//! InfoNCE in which pairs count by their relevance, as in generalised contrastive learning.
//!
//! In:  as InfoNCE, and a grade of at least 0 per pair, `[b]`.
//! Out: `Σ_i w_i · CE_i / Σ_i w_i` for each direction, with the grade as weight `w_i`, reduced as
//!      InfoNCE is, and all gradients.
//! Not here: how a rank or score becomes a grade (the data says it).
//! Source: Zhu et al. 2024 (Marqo GCL, arXiv 2404.08535). Parity: `testdata/parity/losses`.
//!
//! Equal to [`InfoNce`] where all grades are equal and not 0.
//! Pitfalls: a pair of grade 0 is still a negative of the others; a batch of such pairs only has a
//! loss of 0 and teaches nothing.

use super::{Batch, InfoNce, LabelKind, Loss, LossScalar, Outcome};

/// [`InfoNce`] with the grades as weights.
#[derive(Debug, Clone)]
pub struct WeightedInfoNce {
    info_nce: InfoNce,
}

impl WeightedInfoNce {
    /// This loss with pairs that count by their grades.
    #[must_use]
    pub fn new(info_nce: InfoNce) -> Self {
        Self { info_nce }
    }
}

impl Loss for WeightedInfoNce {
    fn scalars(&self) -> Vec<LossScalar> {
        self.info_nce.scalars()
    }

    fn needs(&self) -> LabelKind {
        LabelKind::Grades
    }

    /// # Panics
    /// Also when a grade is below 0 or not finite.
    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        self.info_nce.evaluate_shares(batch, scalars, &shares(batch.grades()))
    }
}

/// Weights whose sum is 1, or all 0.
fn shares(grades: &[f32]) -> Vec<f64> {
    let fits = grades.iter().all(|grade| grade.is_finite() && *grade >= 0.0);
    assert!(fits, "grades are weights of at least 0");
    let sum: f64 = grades.iter().map(|grade| f64::from(*grade)).sum();
    let divisor = if sum > 0.0 { sum } else { 1.0 };
    grades.iter().map(|grade| f64::from(*grade) / divisor).collect()
}

#[cfg(test)]
mod tests;
