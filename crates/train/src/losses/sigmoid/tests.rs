//! The sigmoid loss against PyTorch and itself in other blocks.

use conjoin_core::Seed;

use super::*;
use crate::{
    losses::{
        FalseNegatives,
        golden::{check_golden, read_golden},
    },
    testing::{assert_close, unit_rows},
};

fn sigmoid(block: usize) -> Sigmoid {
    let scalar = |name| LossScalar { name, init: 0.0, min: f32::MIN, max: f32::MAX, learned: true };
    Sigmoid { block, ..Sigmoid::new(scalar("log_scale"), scalar("bias")) }
}

#[test]
fn parity_agrees_with_pytorch() {
    let golden = read_golden();
    let cases = golden.cases.iter().filter(|c| c.loss_name == "sigmoid");
    assert_eq!(cases.map(|case| check_golden(&golden, case, &sigmoid(4))).count(), 4);
}

#[test]
fn blocked_agrees_with_whole_also_with_an_uneven_last_block() {
    let (q, d) = (unit_rows(75, 21, Seed(3)), unit_rows(75, 21, Seed(4)));
    let ids: Vec<u64> = (0..75).map(|i| if i % 6 == 1 { 1 } else { i }).collect();
    let same = FalseNegatives::by_ids(&[&ids]);
    let pairs = Pairs { queries: &q, documents: &d, false_negatives: &same };
    let whole = sigmoid(128).evaluate(pairs, &[2.3, -10.0]);
    for block in [1, 33, 74] {
        let blocked = sigmoid(block).evaluate(pairs, &[2.3, -10.0]);
        assert!((blocked.loss - whole.loss).abs() < 1e-9 * whole.loss);
        assert_eq!(blocked.accuracy, whole.accuracy);
        assert_close(blocked.d_queries.values(), whole.d_queries.values(), 1e-5);
        assert_close(blocked.d_documents.values(), whole.d_documents.values(), 1e-5);
        for (found, expected) in blocked.d_scalars.iter().zip(&whole.d_scalars) {
            assert!((found - expected).abs() < 1e-5 * expected.abs());
        }
    }
}

#[test]
fn softplus_agrees_with_f64_at_the_ends() {
    for x in [-1e4, -80.0, -20.0, -1.0, 0.0, 1.0, 20.0, 1e4_f32] {
        let (row, x) = (vec![x; 128], f64::from(x));
        let expected = 128.0 * if x > 30.0 { x } else { x.exp().ln_1p() };
        // 1 + exp(x) in f64 cannot tell less than 1e-16 from nothing.
        assert!((softplus(&row) - expected).abs() < 1e-6 * expected + 1e-13, "softplus({x})");
    }
}
