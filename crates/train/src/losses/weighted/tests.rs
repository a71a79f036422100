//! The weighted loss against PyTorch, and against the unweighted.

use conjoin_core::{Embeddings, Seed};

use super::*;
use crate::{
    losses::{
        FalseNegatives, Labels, Reduction,
        golden::{check_golden, check_gradients, check_order, free},
    },
    testing::{assert_close, unit_rows},
};

fn info_nce(reduction: Reduction) -> InfoNce {
    InfoNce::new(reduction, free("log_scale"))
}

fn weighted(reduction: Reduction) -> WeightedInfoNce {
    WeightedInfoNce::new(info_nce(reduction))
}

fn evaluate(loss: &dyn Loss, grades: &[f32]) -> Outcome {
    let (q, d): (Embeddings, Embeddings) = (unit_rows(5, 4, Seed(1)), unit_rows(10, 4, Seed(2)));
    let same = FalseNegatives::none();
    let labels = Labels::Grades(grades);
    loss.evaluate(Batch { queries: &q, documents: &d, false_negatives: &same, labels }, &[2.0])
}

#[test]
fn parity_agrees_with_pytorch() {
    check_golden("weighted_info_nce", 13, |settings| {
        Box::new(weighted(settings.reduction.unwrap()).clone())
    });
}

#[test]
fn grad_agrees_with_finite_differences() {
    check_gradients(&weighted(Reduction::SymmetricSum), &[1.3]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(&weighted(Reduction::SymmetricMean), &[2.0]);
}

#[test]
fn equal_grades_agree_with_no_grades() {
    let plain = evaluate(&info_nce(Reduction::SymmetricMean), &[]);
    let equal = evaluate(&weighted(Reduction::SymmetricMean), &[0.3; 5]);
    assert!((equal.loss - plain.loss).abs() < 1e-12 * plain.loss);
    assert_close(equal.d_queries.values(), plain.d_queries.values(), 1e-6);
    let unequal = evaluate(&weighted(Reduction::SymmetricMean), &[0.3, 0.3, 0.3, 0.3, 3.0]);
    assert!((unequal.loss - plain.loss).abs() > 1e-3 * plain.loss);
}

#[test]
fn a_batch_of_irrelevant_pairs_teaches_nothing() {
    let outcome = evaluate(&weighted(Reduction::SymmetricSum), &[0.0; 5]);
    assert_eq!(outcome.loss, 0.0);
    assert!(outcome.d_queries.values().iter().all(|d| *d == 0.0));
}
