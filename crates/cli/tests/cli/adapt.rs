//! `conjoin adapt` on a small catalogue: what it leaves, what it keeps, what the gate says.

use std::{path::Path, time::Instant};

use serde_json::Value;

use crate::support::{Ran, make_shop, names, read_json, run, trained};

const STAGES: [&str; 5] = ["dataset", "base", "adapted", "report", "index"];

fn adapt(dir: &Path, more: &str) -> Ran {
    let model = trained().join("run/model");
    let line =
        format!("adapt shop/products.csv --model {} --batch 8 --out out {more}", model.display());
    run(dir, &line)
}

fn fingerprint(folder: &Path) -> Value {
    read_json(folder.join("manifest.json"))["fingerprint"].clone()
}

/// The exit code, the verdict and the model of the index agree.
#[track_caller]
fn check_verdict(ran: &Ran, out: &Path) {
    let verdict = read_json(out.join("verdict.json"));
    let keep = verdict["verdict"]["keep"].as_bool().unwrap();
    assert_eq!(ran.code, i32::from(!keep), "{}", ran.err);
    let kept = out.join(if keep { "adapted" } else { "base" });
    assert_eq!(fingerprint(&out.join("index")), fingerprint(&kept));
}

#[test]
fn adapts_once_and_again_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    make_shop(dir.path());
    let first = adapt(dir.path(), "--epochs 3");
    check_verdict(&first, &out);
    let report = &read_json(out.join("report/report.json"))["parts"];
    assert_eq!(report["verdict"], read_json(out.join("verdict.json"))["verdict"]);
    assert!(!report["curve"]["loss"].as_array().unwrap().is_empty(), "the curve is in the report");
    assert!(!report["curve"]["evaluations"].as_array().unwrap().is_empty());
    let left: Vec<&str> =
        "adapted base dataset index report stages.json train verdict.json".split(' ').collect();
    assert_eq!(names(&out), left, "nothing else is left");

    let begun = Instant::now();
    let again = adapt(dir.path(), "--epochs 3").expect(first.code);
    assert!(begun.elapsed().as_secs_f64() < 2.0);
    assert_eq!(again.out, first.out);
    for stage in STAGES {
        assert!(again.err.contains(&format!("{stage}: done before, kept")), "{}", again.err);
    }

    // Other settings: the run that is there cannot go on, so another begins.
    let other = adapt(dir.path(), "--epochs 2");
    check_verdict(&other, &out);
    assert!(other.err.contains("dataset: done before, kept"), "{}", other.err);
    assert!(other.err.contains("adapted: done in"), "{}", other.err);

    // Another text of one product: everything that follows from it is made again.
    let csv = dir.path().join("shop/products.csv");
    let text = fs_err::read_to_string(&csv).unwrap();
    fs_err::write(&csv, text.replacen("train\n", "train \n", 1).replacen(",\"", ",\"Fine. ", 1))
        .unwrap();
    let changed = adapt(dir.path(), "--epochs 2");
    check_verdict(&changed, &out);
    assert!(changed.err.contains("base: done before, kept"), "{}", changed.err);
    for stage in ["dataset", "adapted", "report", "index"] {
        assert!(changed.err.contains(&format!("{stage}: done in")), "{stage}: {}", changed.err);
    }
}

#[test]
fn the_gate_refuses_what_did_not_get_better() {
    let dir = tempfile::tempdir().unwrap();
    make_shop(dir.path());
    let ran = adapt(dir.path(), "--epochs 1 --lr 1e-12").expect(1);
    let last = ran.out.lines().last().unwrap();
    assert!(last.starts_with("Not kept: recall@1 of text_to_image stayed at"), "{last}");
    assert_eq!(last.matches(". ").count(), 0, "one sentence: {last}");
    let out = dir.path().join("out");
    assert_eq!(fingerprint(&out.join("index")), fingerprint(&out.join("base")));
    let found = run(dir.path(), "search out/index milk -k 1 --json").expect(0).json();
    assert_eq!(found.as_array().unwrap().len(), 1, "the index finds its model");
}
