//! CoSENT against PyTorch, all pairs of pairs, and finite differences.

use conjoin_core::Seed;

use super::*;
use crate::{
    losses::golden::{check_golden, check_gradients, check_order, free},
    testing::random,
};

fn cosent() -> CoSent {
    CoSent::new(free("log_scale"))
}

#[test]
fn parity_agrees_with_pytorch() {
    check_golden("cosent", 2, |_| Box::new(cosent()));
}

#[test]
fn grad_agrees_with_finite_differences() {
    check_gradients(&cosent(), &[0.7]);
}

#[test]
fn a_batch_in_another_order_has_the_same_loss() {
    check_order(&cosent(), &[1.0]);
}

#[test]
fn sums_by_grade_agree_with_all_pairs() {
    for (n, scale) in [(1, 1.0), (40, 1.0), (40, 300.0)] {
        let scores: Vec<f64> = random(n, Seed(5)).iter().map(|x| scale * f64::from(*x)).collect();
        let grades: Vec<f32> = random(n, Seed(6)).iter().map(|x| (x * 3.0).floor()).collect();
        let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
        let wrong: Vec<_> = pairs.filter(|(i, j)| grades[*i] < grades[*j]).collect();
        let highest = wrong.iter().map(|(i, j)| scores[*i] - scores[*j]).fold(0.0, f64::max);
        let part = |i: usize, j: usize| (scores[i] - scores[j] - highest).exp();
        let sum = (-highest).exp() + wrong.iter().map(|(i, j)| part(*i, *j)).sum::<f64>();
        let (loss, slopes) = differentiate(&scores, &grades);
        assert!((loss - highest - sum.ln()).abs() < 1e-9, "{loss}");
        for (at, slope) in slopes.iter().enumerate() {
            let signed = |(i, j): &(usize, usize)| {
                let sign = f64::from(u8::from(*i == at)) - f64::from(u8::from(*j == at));
                sign * part(*i, *j)
            };
            let expected = wrong.iter().map(signed).sum::<f64>() / sum;
            assert!((slope - expected).abs() < 1e-9, "{at}: {slope} {expected}");
        }
    }
}
