//! Tests of `compare`.

use conjoin_core::Seed;

use super::*;
use crate::QueryResult;

/// A result with these ranks of the first relevant item.
pub(crate) fn result(name: &str, ranks: &[u32]) -> TaskResult {
    let query = |(query, rank): (u32, &u32)| QueryResult {
        query,
        n_relevant: 1,
        first_rank: *rank,
        ndcg_at_10: if *rank > 10 { 0.0 } else { 1.0 / f64::from(rank + 1).log2() },
        hits: Vec::new(),
    };
    TaskResult {
        name: name.to_owned(),
        query_modality: Modality::Text,
        item_modality: Modality::Image,
        n_corpus: 100,
        n_uncounted: 0,
        queries: (0..).zip(ranks).map(query).collect(),
    }
}

fn bootstrap() -> Bootstrap {
    Bootstrap::new(Seed(9))
}

#[test]
fn equal_models_differ_by_exactly_nothing() {
    let one = [result("t", &[1, 5, 30, 2, 11])];
    let comparison = compare(&one, &one, &bootstrap()).unwrap();
    for metric in &comparison.tasks[0].metrics {
        let change = metric.change.unwrap();
        assert_eq!((change.difference, change.share_gained), (0.0, 0.0), "{}", metric.metric);
        assert_eq!(change.interval, Interval { low: 0.0, high: 0.0 });
        assert_eq!(change.before, metric.after);
    }
}

#[test]
fn a_paired_interval_is_narrower_than_its_two_sides() {
    // Every rank halves: queries differ much, but all of them move the same way.
    let before: Vec<u32> = (1..=60).map(|i| i * 2).collect();
    let after: Vec<u32> = (1..=60).collect();
    let comparison =
        compare(&[result("t", &before)], &[result("t", &after)], &bootstrap()).unwrap();
    let entry = comparison.tasks[0].metric(Metric::MeanRank).unwrap();
    let change = entry.change.unwrap();
    let width = |interval: Interval| interval.high - interval.low;
    assert_eq!(change.difference, -30.5);
    assert!(change.interval.low < -30.5 && -30.5 < change.interval.high);
    assert!(width(change.interval) < width(change.before.interval));
    assert_eq!(change.share_gained, 1.0, "a lower rank is a gain");
    assert!(change.is_clear());
}

#[test]
fn differences_are_of_the_statistic_itself() {
    let comparison =
        compare(&[result("t", &[1, 2, 40])], &[result("t", &[3, 2, 1])], &bootstrap()).unwrap();
    let median = comparison.tasks[0].metric(Metric::MedianRank).unwrap();
    assert_eq!(median.change.unwrap().before.value, 2.0);
    assert_eq!(median.after.value, 2.0);
    let mean = comparison.tasks[0].metric(Metric::MeanRank).unwrap();
    assert!((mean.change.unwrap().difference - (2.0 - 43.0 / 3.0)).abs() < 1e-12);
}

#[test]
fn one_model_has_values_but_no_change() {
    let comparison = measure(&[result("t", &[1, 20])], &bootstrap());
    let entry = comparison.tasks[0].metric(Metric::RecallAt10).unwrap();
    assert_eq!(entry.after, Estimate { value: 0.5, interval: Interval { low: 0.0, high: 1.0 } });
    assert_eq!(entry.change, None);
}

#[test]
fn refuses_sides_that_do_not_belong_together() {
    let text = |before: &[TaskResult], after: &[TaskResult]| {
        compare(before, after, &bootstrap()).unwrap_err().to_string()
    };
    let a = [result("a", &[1, 2])];
    let both = [result("a", &[1, 2]), result("b", &[1, 2])];
    assert_eq!(text(&a, &both), "found tasks a, b after, expected a as before");
    let expect = "task `a` did not judge the same queries before and after";
    assert_eq!(text(&a, &[result("a", &[1])]), expect);
    let mut other = a.clone();
    other[0].queries[1].n_relevant = 2;
    assert_eq!(text(&a, &other), expect);
    let mut larger = a.clone();
    larger[0].n_corpus = 101;
    assert_eq!(text(&a, &larger), expect);
}
