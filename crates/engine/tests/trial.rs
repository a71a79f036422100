//! How far products in another precision are, against products computed in both.
//!
//! Tolerance: 1e-6 of the deviation, as sums are of `f64`.

use std::collections::BTreeMap;

use conjoin_core::{Parameter, Seed};
use conjoin_engine::{Activation, Exec, LinearParams, Onto, ParamId, Precision, Tensor, Workspace};
use rand::Rng;

fn parameter(n: usize, seed: u64) -> Parameter {
    let mut rng = Seed(seed).rng();
    let value: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let shape = vec![value.len()];
    Parameter { name: String::new(), shape, value: value.into(), decay: false, frozen: false }
}

/// `x + W₁ gelu(W₀ x)`
fn pass(parameters: &[Parameter], workspace: &Workspace) -> (Tensor, Tensor) {
    let layer = |weight| LinearParams { weight: ParamId(weight), scale: None, bias: None };
    let exec = Exec::inferring(parameters, workspace);
    let x = workspace.pool().tensor(7, 20, &parameters[2].value);
    let hidden = exec.linear(&x, layer(0), Activation::Gelu);
    (exec.linear_onto(Onto::plain(&x), Default::default(), &hidden, layer(1)), hidden)
}

#[test]
fn deviations_are_those_of_products_in_both_precisions() {
    let parameters = [parameter(33 * 20, 1), parameter(20 * 33, 2), parameter(7 * 20, 3)];
    let tried = Workspace::trying(Precision::Int8);
    let (exact, hidden) = pass(&parameters, &tried);
    assert_eq!(exact.values(), pass(&parameters, &Workspace::default()).0.values());
    // One weight at a time in bytes, so that the other's products do not differ.
    for weight in [0, 1] {
        let other = BTreeMap::from([(ParamId(1 - weight), Precision::F32)]);
        let coarse = pass(&parameters, &Workspace::new(Precision::Int8, other));
        let (y, tried_y) = if weight == 0 { (&hidden, &coarse.1) } else { (&exact, &coarse.0) };
        let square = |x: f32| f64::from(x) * f64::from(x);
        let pairs = y.values().iter().zip(tried_y.values());
        let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        let size: f64 = y.values().iter().map(|x| square(*x)).sum();
        let found = tried.deviations()[&ParamId(weight)];
        let expected = (error / size).sqrt();
        assert!((found - expected).abs() <= 1e-6 * expected, "{found} for {expected}");
        assert!((1e-4..0.1).contains(&found), "{found}");
    }
    assert!(Workspace::new(Precision::Int8, BTreeMap::new()).deviations().is_empty());
}
