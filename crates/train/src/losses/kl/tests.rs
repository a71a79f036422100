//! The distillation against PyTorch and finite differences.

use super::*;
use crate::losses::golden::{check_golden, check_gradients, check_order};

const TEMPERATURES: Temperatures = Temperatures { student: 0.3, teacher: 0.8 };

#[test]
fn parity_agrees_with_pytorch() {
    check_golden("kl", 4, |settings| Box::new(KlDistillation::new(settings.temperatures.unwrap())));
}

#[test]
fn grad_agrees_with_finite_differences() {
    check_gradients(&KlDistillation::new(TEMPERATURES), &[]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(&KlDistillation::new(TEMPERATURES), &[]);
}

#[test]
fn log_softmax_stays_right_at_the_ends() {
    assert_eq!(log_softmax(vec![0.0, -1e4]), [0.0, -1e4]);
    let even = log_softmax(vec![1e4, 1e4]);
    assert!(even.iter().all(|x| (x + 2.0_f64.ln()).abs() < 1e-9), "{even:?}");
}
