//! The loss of cosines against PyTorch and finite differences.

use super::*;
use crate::losses::golden::{check_golden, check_gradients, check_order};

#[test]
fn parity_agrees_with_pytorch() {
    check_golden("cosine", 1, |_| Box::new(Cosine));
}

#[test]
fn grad_agrees_with_finite_differences() {
    check_gradients(&Cosine, &[]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(&Cosine, &[]);
}
