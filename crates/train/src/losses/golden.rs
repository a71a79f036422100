//! The reference losses of `testdata/parity/losses`, for the tests of each loss.

use conjoin_core::Embeddings;
use serde::Deserialize;

use super::{FalseNegatives, PairLoss, Pairs};
use crate::testing::assert_close;

#[derive(Deserialize)]
pub(super) struct Golden {
    width: usize,
    text_ids: Vec<u64>,
    image_ids: Vec<u64>,
    queries: Vec<f32>,
    documents: Vec<f32>,
    pub(super) cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) loss_name: String,
    masked: bool,
    scalars: Vec<f32>,
    loss: f64,
    accuracy: f64,
    d_queries: Vec<f32>,
    d_documents: Vec<f32>,
    d_scalars: Vec<f64>,
}

pub(super) fn read_golden() -> Golden {
    serde_json::from_str(include_str!("../../../../testdata/parity/losses/losses.json")).unwrap()
}

/// Compares within 2e-5 of the largest gradient: the reference is f64, logits reach 100.
#[track_caller]
pub(super) fn check_golden(golden: &Golden, case: &Case, loss: &dyn PairLoss) {
    let matrix = |values: &[f32]| Embeddings::new(golden.width, values.to_vec()).unwrap();
    let (queries, documents) = (matrix(&golden.queries), matrix(&golden.documents));
    let same = if case.masked {
        FalseNegatives::by_ids(&[&golden.text_ids, &golden.image_ids])
    } else {
        FalseNegatives::none()
    };
    let pairs = Pairs { queries: &queries, documents: &documents, false_negatives: &same };
    let outcome = loss.evaluate(pairs, &case.scalars);
    assert!((outcome.loss - case.loss).abs() < 1e-6 * case.loss, "{} {}", outcome.loss, case.loss);
    assert!((outcome.accuracy - case.accuracy).abs() < 1e-12);
    assert_close(outcome.d_queries.values(), &case.d_queries, 2e-5);
    assert_close(outcome.d_documents.values(), &case.d_documents, 2e-5);
    assert_eq!(outcome.d_scalars.len(), case.d_scalars.len());
    for (found, expected) in outcome.d_scalars.iter().zip(&case.d_scalars) {
        assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} {expected}");
    }
}
