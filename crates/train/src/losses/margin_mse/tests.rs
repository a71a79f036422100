//! MarginMSE against PyTorch and finite differences.

use super::*;
use crate::losses::golden::{check_golden, check_gradients, check_order, free};

fn margin_mse() -> MarginMse {
    MarginMse::new(free("log_scale"))
}

#[test]
fn parity_agrees_with_pytorch() {
    check_golden("margin_mse", 4, |_| Box::new(margin_mse()));
}

#[test]
fn grad_agrees_with_finite_differences() {
    check_gradients(&margin_mse(), &[0.7]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(&margin_mse(), &[0.7]);
}
