//! Cosines as grades: the cosine of each pair shall be its grade.
//!
//! In:  queries `[b, e]` and their own documents, unit rows; a grade per pair, `[b]`.
//! Out: `mean_i((q_i·d_i - grade_i)²)` and all gradients. Hard negatives get none.
//! Not here: the order of grades only (`cosent`).
//! Source: Reimers and Gurevych 2019, regression objective. Parity: `testdata/parity/losses`.
//!
//! Equal to sentence-transformers' CosineSimilarityLoss; its gradients are these without their part
//! along the row, which the towers' normalisation takes away.
//! Pitfalls: grades lie within -1 and 1; most encoders never give a cosine near -1.

use super::{
    Batch, LabelKind, Loss, LossScalar, Outcome, candidates::Candidates, concordance::concordance,
};

/// The squared distance of cosines from grades.
#[derive(Debug, Clone, Default)]
pub struct Cosine;

impl Loss for Cosine {
    fn scalars(&self) -> Vec<LossScalar> {
        Vec::new()
    }

    fn needs(&self) -> LabelKind {
        LabelKind::Grades
    }

    fn evaluate(&self, batch: Batch<'_>, scalars: &[f32]) -> Outcome {
        assert!(scalars.is_empty(), "the loss of cosines has no scalars");
        let (candidates, grades) = (Candidates::own(batch), batch.grades());
        let scores = candidates.scores();
        let b = scores.len() as f64;
        let off: Vec<f64> = scores.iter().zip(grades).map(|(s, g)| s - f64::from(*g)).collect();
        let loss = off.iter().map(|off| off * off).sum::<f64>() / b;
        let d_scores: Vec<f64> = off.iter().map(|off| 2.0 * off / b).collect();
        let (d_queries, d_documents) = candidates.gradients(&d_scores);
        let accuracy = concordance(&scores, grades);
        Outcome { loss, accuracy, d_queries, d_documents, d_scalars: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
