//! Tests of `ranking`'s parts; the ranking as a whole is tested in `task`.

use super::*;

#[test]
fn keys_sort_as_scores_then_ids() {
    let precedence = Precedence::new(&["b".to_owned(), "a".to_owned()], 2).unwrap();
    let scores = [f32::MIN, -1.0, -0.5, -1e-40, 0.0, 1e-40, 0.5, 1.0, f32::MAX];
    for pair in scores.windows(2) {
        assert!(precedence.key(pair[0], 0) < precedence.key(pair[1], 1), "{pair:?}");
    }
    assert_eq!(precedence.key(-0.0, 0), precedence.key(0.0, 0));
    assert!(precedence.key(0.5, 0) > precedence.key(0.5, 1), "the greater id goes first");
}

#[test]
fn dot_agrees_with_a_sum_in_double() {
    for width in [1, 3, 15, 16, 17, 64, 100] {
        let of = |seed: f32| (0..width).map(|x| (x as f32 * seed).sin()).collect::<Vec<f32>>();
        let (a, b) = (of(0.7), of(1.3));
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-5, "width {width}");
    }
}
