//! Tests of `calibration`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    matching: Vec<f32>,
    other: Vec<f32>,
    a: f64,
    b: f64,
}

#[test]
fn parity_fit_agrees_with_scikit_learn() {
    let file =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parity/metrics/calibration.json");
    let text = fs_err::read_to_string(file).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    assert_eq!(reference.cases.len(), 5);
    for (name, case) in reference.cases {
        let fit = Calibration::fit(&case.matching, &case.other).unwrap();
        let far = |found: f64, expected: f64| (found - expected).abs() / expected.abs().max(1.0);
        assert!(far(fit.a, case.a) < 1e-6, "{name}: a is {}, expected {}", fit.a, case.a);
        assert!(far(fit.b, case.b) < 1e-6, "{name}: b is {}, expected {}", fit.b, case.b);
    }
}

#[test]
fn does_not_depend_on_how_many_others_were_sampled() {
    // Enough scores that the softening of the targets does not show.
    let (matching, other) = ([0.5, 0.6, 0.8, 0.3].repeat(500), [0.1, 0.4, 0.55, 0.2].repeat(500));
    let once = Calibration::fit(&matching, &other).unwrap();
    let many = Calibration::fit(&matching, &other.repeat(20)).unwrap();
    for score in [0.0, 0.5, 1.0] {
        assert!((once.probability(score) - many.probability(score)).abs() < 0.002, "{score}");
    }
}

#[test]
fn stays_finite_at_extremes() {
    let far = Calibration::fit(&[1e30], &[-1e30]).unwrap();
    assert!(far.a.is_finite() && far.b.is_finite());
    assert!(far.probability(1e30) > 0.6 && far.probability(-1e30) < 0.4);
    let steep = Calibration { a: 1e4, b: 0.0 };
    assert_eq!((steep.probability(1.0), steep.probability(-1.0)), (1.0, 0.0));
    let narrow = Calibration::fit(&[0.500_000_1, 0.5], &[0.5, 0.499_999_9]).unwrap();
    assert!(narrow.probability(0.500_000_1) > narrow.probability(0.499_999_9));
}

#[test]
fn equal_scores_tell_nothing() {
    let flat = Calibration::fit(&[0.3; 5], &[0.3; 9]).unwrap();
    assert_eq!(flat.probability(0.9), 0.5);
}

#[test]
fn a_prior_moves_the_odds() {
    let even = Calibration { a: 2.0, b: -1.0 };
    assert_eq!(even.with_prior(0.5), even);
    let odds = |p: f64| p / (1.0 - p);
    let rare = even.with_prior(0.1);
    let ratio = odds(even.probability(0.7)) / odds(rare.probability(0.7));
    assert!((ratio - 9.0).abs() < 1e-9, "{ratio}");
}

#[test]
fn refuses_what_cannot_be_fitted() {
    let error = Calibration::fit(&[0.1], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "found 1 matching and 0 other scores, expected at least one of each"
    );
    let error = Calibration::fit(&[0.1], &[f32::NAN]).unwrap_err();
    assert_eq!(error.to_string(), "found a score of NaN, expected a finite number");
}
