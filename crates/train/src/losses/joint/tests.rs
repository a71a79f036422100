//! The joint loss against PyTorch, finite differences, and itself in other blocks.

use super::*;
use crate::losses::golden::{check_blocks, check_golden, check_gradients, check_order, free};

fn joint(block: usize) -> Box<dyn Loss> {
    Box::new(Joint { block, ..Joint::new(free("log_scale")) })
}

#[test]
fn parity_agrees_with_pytorch() {
    for block in [4, 128] {
        check_golden("joint", 11, |_| joint(block));
    }
}

#[test]
fn blocked_agrees_with_whole() {
    check_blocks(joint, &[3.0]);
}

#[test]
fn grad_agrees_with_finite_differences() {
    check_gradients(joint(128).as_ref(), &[1.3]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(joint(8).as_ref(), &[2.0]);
}
