//! Tests of `distribution`.

use std::collections::BTreeMap;

use conjoin_core::Embeddings;
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
    auc: f64,
}

#[test]
fn parity_auc_agrees_with_scipy() {
    let file =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parity/metrics/calibration.json");
    let text = fs_err::read_to_string(file).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    for (name, mut case) in reference.cases {
        case.matching.sort_by(f32::total_cmp);
        case.other.sort_by(f32::total_cmp);
        let found = auc(&case.matching, &case.other);
        assert!((found - case.auc).abs() < 1e-6, "{name}: {found}, expected {}", case.auc);
    }
}

#[test]
fn auc_counts_ties_half() {
    // Of six pairs, 0.3 wins two and ties one; 0.2 ties one, wins one, loses one.
    assert_eq!(auc(&[0.2, 0.3], &[0.1, 0.2, 0.3]), (1.0 + 0.5 + 2.0 + 0.5) / 6.0);
    assert_eq!(auc(&[0.0, -0.0], &[0.0]), 0.5);
}

#[test]
fn bins_hold_their_lower_edge_and_round_off() {
    let counts = Histogram::new(&[-1.000_1, -1.0, 0.0, 0.009, 0.995, 1.0, 1.000_1]).counts;
    let filled: Vec<(usize, u64)> =
        counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
    assert_eq!(filled, [(0, 2), (100, 2), (199, 3)]);
    assert_eq!(counts.len(), HISTOGRAM_BINS);
}

/// Vectors on the unit circle at these angles.
fn circle(angles: &[f32]) -> Embeddings {
    Embeddings::new(2, angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect()).unwrap()
}

fn task(queries: &[f32], corpus: &[f32], relevance: Vec<Vec<(u32, f32)>>) -> RetrievalTask {
    RetrievalTask {
        name: "t".to_owned(),
        query_modality: Modality::Text,
        item_modality: Modality::Image,
        queries: circle(queries),
        corpus: circle(corpus),
        ids: Vec::new(),
        relevance,
        exclude: Vec::new(),
    }
}

#[test]
fn looks_at_all_pairs_of_a_small_task() {
    let mut task = task(
        &[0.0, 1.0, 2.0],
        &[0.0, 1.0, 2.0, 3.0],
        vec![vec![(0, 1.0)], vec![(1, 1.0), (2, 0.0)], vec![]],
    );
    task.exclude = vec![Some(3), None, None];
    let found = ScoreDistribution::measure(&task, Seed(1)).unwrap();
    // The third query has no relevant item and does not take part.
    assert_eq!((found.matching.n_pairs, found.other.n_pairs), (2, 2 + 3));
    assert!((found.matching.mean - 1.0).abs() < 1e-6);
    let expected = (1.0_f64.cos() + 2.0_f64.cos() + 2.0 * 1.0_f64.cos() + 2.0_f64.cos()) / 5.0;
    assert!((found.other.mean - expected).abs() < 1e-6, "{}", found.other.mean);
    assert_eq!(found.auc, 1.0);
    assert!(found.calibration.probability(1.0) > 0.5);
    assert_eq!(found.other.histogram.counts.iter().sum::<u64>(), 5);
}

#[test]
fn a_sample_is_bounded_and_close_to_the_whole() {
    let angles: Vec<f32> = (0..700).map(|i| i as f32 * 0.009).collect();
    let relevance = (0..700).map(|query| vec![(query, 1.0)]).collect();
    let task = task(&angles, &angles, relevance);
    let found = ScoreDistribution::measure(&task, Seed(1)).unwrap();
    assert!((99_000..=100_100).contains(&found.other.n_pairs), "{}", found.other.n_pairs);
    // The angles go once around the circle, so other pairs are as often alike as opposed.
    assert!(found.other.mean.abs() < 0.01, "{}", found.other.mean);
    assert_eq!(found, ScoreDistribution::measure(&task, Seed(1)).unwrap());
    assert_ne!(found, ScoreDistribution::measure(&task, Seed(2)).unwrap());
}

#[test]
fn refuses_rows_that_are_no_unit_vectors() {
    let mut task = task(&[0.0], &[0.0, 1.0], vec![vec![(0, 1.0)]]);
    task.corpus.row_mut(0)[0] = 2.0;
    let error = ScoreDistribution::measure(&task, Seed(1)).unwrap_err();
    assert_eq!(
        error.kind.to_string(),
        "the score of query 0 and corpus row 0 is 2, expected -1 to 1"
    );
    task.corpus.row_mut(0)[0] = f32::NAN;
    let error = ScoreDistribution::measure(&task, Seed(1)).unwrap_err();
    assert!(matches!(error.kind, TaskErrorKind::NotFinite { .. }), "{error:?}");
}

#[test]
fn refuses_a_task_in_which_everything_matches() {
    let task = task(&[0.0], &[0.0], vec![vec![(0, 1.0)]]);
    let error = ScoreDistribution::measure(&task, Seed(1)).unwrap_err();
    assert_eq!(error.kind.to_string(), "no pair is left that does not match");
}
