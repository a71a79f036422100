//! Ctrl-C, or worse, at several moments: nothing is left half-written, and the same command ends with the same model.
#![cfg(unix)]

use std::path::Path;

use crate::support::{Ran, Running, beside, make_shop, names, recipe, run, trained};

const LINE: &str = "interrupted: what was finished is kept, the same command goes on from there";

/// Runs a command until it has said `moment`, then interrupts it.
#[track_caller]
fn interrupt_at(dir: &Path, line: &str, moment: &str) -> Ran {
    let mut running = Running::start(dir, line);
    running.wait_for(moment);
    running.interrupt();
    let ran = running.end().expect(2);
    assert_eq!(ran.err.lines().last(), Some(LINE), "{}", ran.err);
    assert!(!ran.err.contains("error:"), "{}", ran.err);
    ran
}

#[track_caller]
fn assert_equal_files(a: &Path, b: &Path) {
    assert!(fs_err::read(a).unwrap() == fs_err::read(b).unwrap(), "{a:?} and {b:?} differ");
}

#[test]
fn a_stopped_training_ends_with_the_same_weights() {
    let (dir, data) = beside("data");
    let text = recipe(30).replace("\"data\"", &format!("\"{data}\""));
    fs_err::write(dir.path().join("recipe.toml"), text).unwrap();
    let train = |out: &str| format!("train recipe.toml --out {out}");
    run(dir.path(), &train("whole")).expect(0);
    for moment in ["step 2:", "step 10:"] {
        interrupt_at(dir.path(), &train("parts"), moment);
        assert_eq!(names(&dir.path().join("parts")), ["train"], "no model, not even half of one");
    }
    let mut killed = Running::start(dir.path(), &train("parts"));
    killed.wait_for("step 14:");
    killed.kill();
    let ran = run(dir.path(), &train("parts")).expect(0);
    assert!(ran.err.contains("train: goes on after step"), "{}", ran.err);
    let file = |run: &str, name: &str| dir.path().join(run).join(name);
    for name in ["model/weights.safetensors", "model/spec.json", "train/evaluations.jsonl"] {
        assert_equal_files(&file("whole", name), &file("parts", name));
    }
    let steps = fs_err::read_to_string(file("parts", "train/train.jsonl")).unwrap();
    assert_eq!(steps.lines().count(), 30, "a line per step, also over the stops");
    assert_eq!(names(&dir.path().join("parts")), ["model", "train"]);
    assert_eq!(names(&dir.path().join("parts/train/states")), ["step-000000000030"]);
}

#[test]
fn a_stopped_adaptation_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    make_shop(dir.path());
    let model = trained().join("run/model").display().to_string();
    let adapt = |out: &str| {
        format!("adapt shop/products.csv --model {model} --batch 8 --epochs 8 --out {out}")
    };
    let whole = run(dir.path(), &adapt("whole"));
    for moment in ["dataset: done in", "step 6:", "step 18:", "adapted: done in"] {
        interrupt_at(dir.path(), &adapt("parts"), moment);
        for name in names(&dir.path().join("parts")) {
            assert!(!name.starts_with('.') && name != "report", "{name} after {moment}");
        }
    }
    let parts = run(dir.path(), &adapt("parts")).expect(whole.code);
    assert_eq!(parts.out, whole.out);
    let file = |out: &str| dir.path().join(out).join("adapted/weights.safetensors");
    assert_equal_files(&file("whole"), &file("parts"));
    assert_eq!(names(&dir.path().join("whole")), names(&dir.path().join("parts")));
}

/// A catalogue large enough that it is being read when Ctrl-C comes.
#[test]
fn a_stopped_curation_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..200_000).map(|n| format!("{n},Product number {n}\n")).collect();
    fs_err::write(dir.path().join("big.csv"), format!("id,title\n{rows}")).unwrap();
    let stop = |line: &str, staging: &str| {
        let mut running = Running::start(dir.path(), line);
        running.wait_for_path(&dir.path().join(staging));
        running.interrupt();
        let ran = running.end().expect(2);
        assert_eq!(ran.err.lines().last(), Some(LINE), "{}", ran.err);
    };
    stop("curate big.csv --out data", ".data.staging");
    assert_eq!(names(dir.path()), ["big.csv"]);
    stop("adapt big.csv --out out", "out/.dataset.staging");
    assert_eq!(names(&dir.path().join("out")), Vec::<String>::new());
}
