//! Tests of `metric`.

use super::*;

fn query(first_rank: u32) -> QueryResult {
    QueryResult { query: 0, n_relevant: 1, first_rank, ndcg_at_10: 0.5, hits: Vec::new() }
}

#[track_caller]
fn check(metric: Metric, rank: u32, expect: f64) {
    assert_eq!(metric.of(&query(rank)), expect, "{metric} at rank {rank}");
}

#[test]
fn counts_a_query_up_to_the_cut_off() {
    check(Metric::RecallAt1, 1, 1.0);
    check(Metric::RecallAt1, 2, 0.0);
    check(Metric::RecallAt5, 5, 1.0);
    check(Metric::RecallAt5, 6, 0.0);
    check(Metric::RecallAt10, 10, 1.0);
    check(Metric::RecallAt10, 11, 0.0);
    check(Metric::Mrr, 20, 0.05);
    check(Metric::MrrAt10, 10, 0.1);
    check(Metric::MrrAt10, 11, 0.0);
    check(Metric::NdcgAt10, 7, 0.5);
    check(Metric::MeanRank, 7, 7.0);
}

#[test]
fn sums_up_by_mean_or_median() {
    let queries = [9, 1, 4, 2].map(query);
    assert_eq!(Metric::MeanRank.over(&queries), 4.0);
    assert_eq!(Metric::MedianRank.over(&queries), 3.0);
    assert_eq!(Metric::MedianRank.over(&queries[..3]), 4.0);
    assert_eq!(Metric::MedianRank.over(&queries[..1]), 9.0);
    assert!(Metric::Mrr.over(&[]).is_nan());
}

#[test]
fn is_stored_under_its_name() {
    for metric in Metric::ALL {
        assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        assert_eq!(Metric::from_name(metric.name()), Some(metric));
    }
    assert_eq!(Metric::from_name("recall@3"), None);
}

#[test]
fn shows_shares_in_percent_and_differences_with_their_sign() {
    assert_eq!(Metric::RecallAt10.display(0.6894), "68.9");
    assert_eq!(Metric::MeanRank.display(12.34), "12.3");
    assert_eq!(Metric::Mrr.display_difference(0.077), "+7.7");
    assert_eq!(Metric::Mrr.display_difference(-0.077), "−7.7");
    assert_eq!(Metric::Mrr.display_difference(-0.0001), "±0.0");
    assert_eq!(Metric::MeanRank.display_difference(-3.0), "−3.0");
}

#[test]
fn turns_ranks_so_that_a_gain_is_positive() {
    assert_eq!(Metric::MedianRank.gain(-2.0), 2.0);
    assert_eq!(Metric::NdcgAt10.gain(-2.0), -2.0);
}
