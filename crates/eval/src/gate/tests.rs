//! Tests of `gate`.

use conjoin_core::Seed;

use super::*;
use crate::{Bootstrap, TaskResult, compare, compare::tests::result, measure};

fn gate(min_gain: f64, max_loss: f64) -> Gate {
    Gate { metric: "search/recall@10".parse().unwrap(), min_gain, max_loss }
}

/// `hits` of 100 queries succeed.
fn share(name: &str, hits: usize) -> TaskResult {
    let ranks: Vec<u32> = (0..100).map(|query| if query < hits { 1 } else { 50 }).collect();
    result(name, &ranks)
}

#[track_caller]
fn check(gate: &Gate, before: &[TaskResult], after: &[TaskResult], keep: bool, sentence: &str) {
    let comparison = compare(before, after, &Bootstrap::new(Seed(2))).unwrap();
    let verdict = gate.judge(&comparison).unwrap();
    assert_eq!(verdict, GateVerdict { keep, sentence: sentence.to_owned() });
}

#[test]
fn keeps_a_clear_gain() {
    check(
        &gate(0.0, 0.02),
        &[share("search", 40), share("similar", 50)],
        &[share("search", 60), share("similar", 49)],
        true,
        "Kept: recall@10 of search rose from 40.0 % to 60.0 % (+20.0 points; 95 % interval +12.0 \
         to +28.0), and no other task lost more than 2.0 points.",
    );
}

#[test]
fn does_not_keep_noise() {
    check(
        &gate(0.0, 0.02),
        &[share("search", 40)],
        &[share("search", 41)],
        false,
        "Not kept: recall@10 of search rose from 40.0 % to 41.0 % (+1.0 points; 95 % interval ±0.0 \
         to +3.0), which is within noise.",
    );
}

#[test]
fn does_not_keep_what_stayed_or_fell() {
    check(
        &gate(0.0, 0.02),
        &[share("search", 40)],
        &[share("search", 40)],
        false,
        "Not kept: recall@10 of search stayed at 40.0 %, so it did not get better.",
    );
    check(
        &gate(0.0, 0.02),
        &[share("search", 40)],
        &[share("search", 20)],
        false,
        "Not kept: recall@10 of search fell from 40.0 % to 20.0 % (−20.0 points; 95 % interval −28.0 \
         to −12.0), so it did not get better.",
    );
}

#[test]
fn does_not_keep_less_than_asked_for() {
    check(
        &gate(0.3, 0.02),
        &[share("search", 40)],
        &[share("search", 60)],
        false,
        "Not kept: recall@10 of search rose from 40.0 % to 60.0 % (+20.0 points; 95 % interval +12.0 \
         to +28.0), less than the 30.0 points asked for.",
    );
}

#[test]
fn does_not_keep_a_gain_paid_for_elsewhere() {
    check(
        &gate(0.0, 0.02),
        &[share("search", 40), share("similar", 50), share("reverse", 50)],
        &[share("search", 60), share("similar", 47), share("reverse", 40)],
        false,
        "Not kept: recall@10 of search rose from 40.0 % to 60.0 % (+20.0 points; 95 % interval +12.0 \
         to +28.0), but recall@10 of reverse got worse by 10.0 points, where 2.0 points are allowed.",
    );
}

#[test]
fn exactly_what_is_asked_for_and_allowed_is_kept() {
    // 0.6 - 0.4 is a little less than 0.2, and 0.5 - 0.48 a little more than 0.02.
    let comparison = compare(
        &[share("search", 40), share("similar", 50)],
        &[share("search", 60), share("similar", 48)],
        &Bootstrap::new(Seed(2)),
    );
    assert!(gate(0.2, 0.02).judge(&comparison.unwrap()).unwrap().keep);
}

#[test]
fn a_lower_rank_is_a_gain() {
    let gate = Gate { metric: "search/mean_rank".parse().unwrap(), min_gain: 0.0, max_loss: 1.0 };
    let comparison =
        compare(&[share("search", 40)], &[share("search", 60)], &Bootstrap::new(Seed(2))).unwrap();
    let verdict = gate.judge(&comparison).unwrap();
    assert!(verdict.keep, "{}", verdict.sentence);
    assert!(
        verdict.sentence.starts_with(
            "Kept: mean_rank of search fell from 30.4 to 20.6 (−9.8 ranks; 95 % interval −13."
        ),
        "{}",
        verdict.sentence
    );
}

#[test]
fn names_are_a_task_and_a_metric() {
    let name: MetricName = "a/b/ndcg@10".parse().unwrap();
    assert_eq!((name.task.as_str(), name.metric), ("a/b", Metric::NdcgAt10));
    assert_eq!(name.to_string(), "a/b/ndcg@10");
    for bad in ["recall@10", "/recall@10", "a/recall@11", ""] {
        assert_eq!(
            bad.parse::<MetricName>().unwrap_err().to_string(),
            format!("`{bad}` is not a metric name, expected one such as `text_to_image/recall@10`")
        );
    }
}

#[test]
fn refuses_to_judge_what_was_not_compared() {
    let one = [share("other", 40)];
    let bootstrap = Bootstrap::new(Seed(2));
    let error = gate(0.0, 0.0).judge(&measure(&one, &bootstrap)).unwrap_err();
    assert_eq!(error.to_string(), "`search/recall@10` was not measured, there is other");
    let error = gate(0.0, 0.0).judge(&measure(&[share("search", 1)], &bootstrap)).unwrap_err();
    assert_eq!(error, GateError::NoBefore);
}
