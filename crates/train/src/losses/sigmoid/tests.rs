//! The sigmoid loss against PyTorch and itself in other blocks.

use conjoin_core::Seed;

use super::*;
use crate::{
    losses::{
        FalseNegatives, Labels,
        golden::{check_blocks, check_golden, check_gradients, check_order, free},
    },
    testing::{assert_close, unit_rows},
};

fn sigmoid(block: usize) -> Sigmoid {
    Sigmoid { block, ..Sigmoid::new(free("log_scale"), free("bias")) }
}

fn with(negatives: Negatives, block: usize) -> Box<dyn Loss> {
    Box::new(sigmoid(block).with_negatives(negatives))
}

#[test]
fn parity_agrees_with_pytorch() {
    for block in [4, 128] {
        check_golden("sigmoid", 14, |settings| with(settings.negatives, block));
    }
}

#[test]
fn hard_negatives_in_blocks_agree_with_whole() {
    for negatives in [Negatives::All, Negatives::Own] {
        check_blocks(|block| with(negatives, block), &[2.3, -3.0]);
    }
}

#[test]
fn grad_agrees_with_finite_differences() {
    for negatives in [Negatives::All, Negatives::Own] {
        check_gradients(with(negatives, 128).as_ref(), &[1.3, -0.7]);
    }
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(with(Negatives::All, 8).as_ref(), &[2.0, -2.0]);
}

#[test]
fn blocked_agrees_with_whole_also_with_an_uneven_last_block() {
    let (q, d) = (unit_rows(75, 21, Seed(3)), unit_rows(75, 21, Seed(4)));
    let ids: Vec<u64> = (0..75).map(|i| if i % 6 == 1 { 1 } else { i }).collect();
    let same = FalseNegatives::by_ids(&[&ids]);
    let pairs = Batch { labels: Labels::None, queries: &q, documents: &d, false_negatives: &same };
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
