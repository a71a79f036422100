//! Matryoshka losses against PyTorch and finite differences, around several losses.

use conjoin_core::Seed;

use super::*;
use crate::losses::{
    InfoNce, KlDistillation, Sigmoid,
    golden::{Settings, check_golden, check_gradients, check_order, free, made},
};

fn inner(settings: &Settings) -> Box<dyn Loss> {
    match settings.kind.as_str() {
        "info_nce" => Box::new(InfoNce::new(settings.reduction.unwrap(), free("log_scale"))),
        "sigmoid" => Box::new(sigmoid()),
        "kl" => Box::new(KlDistillation::new(settings.temperatures.unwrap())),
        other => panic!("{other}"),
    }
}

fn sigmoid() -> Sigmoid {
    Sigmoid::new(free("log_scale"), free("bias"))
}

fn dims(dims: &[(usize, f64)]) -> Vec<MatryoshkaDim> {
    dims.iter().map(|&(dim, weight)| MatryoshkaDim { dim, weight }).collect()
}

#[test]
fn parity_agrees_with_pytorch() {
    check_golden("matryoshka", 7, |settings| {
        let inner = inner(settings.inner.as_ref().unwrap());
        Box::new(Matryoshka::new(settings.dims.clone(), inner))
    });
}

#[test]
fn grad_agrees_with_finite_differences_around_a_loss_with_two_scalars() {
    let loss = Matryoshka::new(dims(&[(2, 0.5), (5, 1.0), (3, 2.0)]), Box::new(sigmoid()));
    check_gradients(&loss, &[1.3, -0.7]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    let loss = Matryoshka::new(dims(&[(3, 0.5), (8, 1.0)]), Box::new(sigmoid()));
    check_order(&loss, &[1.3, -0.7]);
}

#[test]
fn the_full_width_alone_is_the_inner_loss() {
    let batch = made(9, 1, 6, Seed(4));
    let loss = Matryoshka::new(dims(&[(6, 1.0)]), Box::new(sigmoid()));
    let (whole, inner) =
        (batch.evaluate(&loss, &[1.0, 0.0]), batch.evaluate(&sigmoid(), &[1.0, 0.0]));
    assert!((whole.loss - inner.loss).abs() < 1e-6 * inner.loss);
    assert_eq!(whole.accuracy, inner.accuracy);
    for (row, d) in batch.queries.rows().zip(whole.d_queries.rows()) {
        assert!(inner_product(row, d).abs() < 1e-7, "nothing along the row");
    }
}

#[test]
fn tells_the_width_it_needs_and_leaves_rows_of_zeros_alone() {
    let loss = Matryoshka::new(dims(&[(2, 1.0), (6, 1.0)]), Box::new(sigmoid()));
    assert_eq!(loss.min_width(), 6);
    let mut batch = made(5, 0, 6, Seed(4));
    batch.queries.row_mut(2).fill(0.0);
    let outcome = batch.evaluate(&loss, &[1.0, 0.0]);
    assert!(outcome.loss.is_finite());
    assert!(outcome.d_queries.row(2).iter().all(|d| *d == 0.0));
    assert!(outcome.d_queries.row(1).iter().any(|d| *d != 0.0));
}
