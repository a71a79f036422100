//! Plateaus against torch, and when a run ends.

use super::*;

fn points(metrics: &[f64]) -> Vec<EvaluationPoint> {
    let point = |(i, metric): (usize, &f64)| EvaluationPoint {
        step: 100 * (i as u64 + 1),
        metric: *metric,
    };
    metrics.iter().enumerate().map(point).collect()
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    config: PlateauConfig,
    /// JSON has no NaN.
    metrics: Vec<Option<f64>>,
    factors: Vec<f64>,
}

/// To 1e-12: both multiply in f64.
#[test]
fn parity_agrees_with_pytorch_after_every_evaluation() {
    let golden = include_str!("../../../../testdata/parity/plateau/plateau.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    for Case { config, metrics, factors } in golden.cases {
        config.check("plateau").unwrap();
        let metrics: Vec<f64> = metrics.iter().map(|m| m.unwrap_or(f64::NAN)).collect();
        let points = points(&metrics);
        assert_eq!(config.lr_factor(&[]), 1.0);
        for (n, expect) in (1..=points.len()).zip(&factors) {
            let found = config.lr_factor(&points[..n]);
            assert!((found - expect).abs() < 1e-12, "{config:?} {n}: {found}, expected {expect}");
        }
    }
}

/// Expects the numbers of the evaluations, from 0: the one that ends the run, and the best.
#[track_caller]
fn check_stop(patience: u64, metrics: &[f64], expect: Option<(usize, Option<usize>)>) {
    let points = points(metrics);
    let config = EarlyStopConfig { patience, min_delta: 0.01 };
    config.check("stop").unwrap();
    // Steps, since NaN equals nothing.
    let step = |index: usize| points[index].step;
    let expect = expect.map(|(at, best)| (step(at), best.map(step)));
    let found = config.stop(&points).map(|stop| (stop.at.step, stop.best.map(|best| best.step)));
    assert_eq!(found, expect);
}

#[test]
fn a_run_ends_when_patience_is_used_up() {
    check_stop(2, &[], None);
    check_stop(2, &[0.1, 0.2, 0.15, 0.3, 0.31], None);
    check_stop(2, &[0.1, 0.2, 0.15, 0.205, 0.9], Some((3, Some(1))));
    check_stop(1, &[0.1, 0.1], Some((1, Some(0))));
    check_stop(3, &[-5.0, -4.0, -4.0, -4.0, -4.0], Some((4, Some(1))));
}

#[test]
fn what_is_no_number_is_no_improvement() {
    check_stop(2, &[f64::NAN, f64::NAN], Some((1, None)));
    check_stop(2, &[0.1, f64::NAN, 0.2, f64::NAN, 0.3], None);
}

#[test]
fn names_the_settings_that_cannot_be() {
    let config =
        PlateauConfig { factor: 1.0, patience: 0, min_delta: -1.0, cooldown: 0, floor: 2.0 };
    assert_eq!(
        config.check("plateau").unwrap_err().to_string(),
        "`plateau.factor` is 1, it must be above 0 and below 1; \
         `plateau.min_delta` is -1, it must be a number of at least 0; \
         `plateau.floor` is 2, it must be between 0 and 1"
    );
    let config: EarlyStopConfig = serde_json::from_str(r#"{"patience": 0}"#).unwrap();
    assert_eq!(
        config.check("stop").unwrap_err().to_string(),
        "`stop.patience` is 0, it must be at least 1"
    );
    assert!(serde_json::from_str::<EarlyStopConfig>(r#"{"patience": 1, "mode": "max"}"#).is_err());
}
