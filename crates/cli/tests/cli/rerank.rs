//! `conjoin rerank` on tiny random models: the order is the references', the meaning is not.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::support::{Ran, command, conjoin};

fn checkpoint(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/parity")
        .join(case)
        .join("checkpoint")
}

fn rerank(dir: &Path, case: &str, args: &[&str]) -> Ran {
    let model = checkpoint(case).display().to_string();
    conjoin(dir, &[&["rerank", "how do I bake bread", "--model", &model][..], args].concat())
}

fn documents() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let long = "bread can be baked in a covered pot ".repeat(20);
    let lines = format!("Paris is a city\n\nbread can be baked\n{long}\n");
    fs_err::write(dir.path().join("answers.txt"), lines).unwrap();
    let objects =
        [json!({"id": 1, "text": "apples"}), json!("a train to Paris"), json!({"text": "bread"})];
    let lines: String = objects.iter().map(|line| format!("{line}\n")).collect();
    fs_err::write(dir.path().join("more.jsonl"), lines).unwrap();
    dir
}

fn scores(ranked: &Value) -> Vec<f64> {
    ranked.as_array().unwrap().iter().map(|hit| hit["score"].as_f64().unwrap()).collect()
}

#[test]
fn documents_of_all_files_come_in_order_of_their_scores() {
    let dir = documents();
    for case in ["cross_encoders/bert", "colbert/bert"] {
        let ran = rerank(dir.path(), case, &["answers.txt", "more.jsonl", "--json"]).expect(0);
        let ranked = ran.json();
        assert!(scores(&ranked).is_sorted_by(|a, b| a >= b), "{ranked}");
        let place = |hit: &Value| format!("{}:{}", hit["source"].as_str().unwrap(), hit["line"]);
        let mut places: Vec<String> = ranked.as_array().unwrap().iter().map(place).collect();
        places.sort_unstable();
        let all = [
            "answers.txt:1",
            "answers.txt:3",
            "answers.txt:4",
            "more.jsonl:1",
            "more.jsonl:2",
            "more.jsonl:3",
        ];
        assert_eq!(places, all);
        assert!(ran.err.contains("1 of 6 documents were not read to the end"), "{}", ran.err);
        let long = ranked.as_array().unwrap().iter().find(|hit| hit["line"] == 4).unwrap();
        assert!(long["used_tokens"].as_u64() < long["total_tokens"].as_u64(), "{long}");

        let few =
            rerank(dir.path(), case, &["answers.txt", "more.jsonl", "-k", "2", "-q"]).expect(0);
        assert_eq!(few.err, "");
        let lines: Vec<&str> = few.out.lines().collect();
        assert_eq!(lines.len(), 2);
        let best = &ranked[0];
        let score = format!("{:.4}", best["score"].as_f64().unwrap());
        assert!(lines[0].trim_start().starts_with("1.") && lines[0].contains(&score), "{lines:?}");
        assert!(lines[0].contains(&place(best)), "{lines:?}");
    }
}

#[test]
fn documents_come_from_standard_input() {
    let dir = documents();
    let model = checkpoint("cross_encoders/bert").display().to_string();
    let mut child = command(dir.path(), &["rerank", "bread", "--model", &model, "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"apples\nParis\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let ranked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(scores(&ranked).len(), 2);
    assert_eq!(ranked[0]["source"], "-");
}

#[test]
fn what_cannot_be_ranked_is_told() {
    let dir = documents();
    let fails = |case: &str, args: &[&str]| rerank(dir.path(), case, args).expect(2).err;
    let error = fails("static/model2vec", &["answers.txt"]);
    assert!(error.contains("no reranker"), "{error}");
    let error = fails("cross_encoders/bert", &["more.jsonl", "--field", "title"]);
    assert!(error.contains("line 1 of `more.jsonl` has no text `title`"), "{error}");
    let error = fails("cross_encoders/bert", &["."]);
    assert!(error.contains("is a folder"), "{error}");
    let error = fails("cross_encoders/bert", &["nowhere.txt"]);
    assert!(error.contains("nowhere.txt"), "{error}");
    let model = checkpoint("cross_encoders/bert").display().to_string();
    let error = conjoin(dir.path(), &["embed", "answers.txt", "--model", &model, "--out", "x"]);
    let error = error.expect(2).err;
    assert!(error.contains("use it with `conjoin rerank`"), "{error}");
}

#[test]
fn a_table_of_tokens_indexes_and_leaves_out_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "id,title\na,Paris is a city\nb,\u{65e5}\u{672c}\nc,bread and apples\n";
    fs_err::write(dir.path().join("rows.csv"), rows).unwrap();
    let model = checkpoint("static/model2vec").display().to_string();
    let run = |args: &[&str]| conjoin(dir.path(), args).expect(0);
    run(&["curate", "rows.csv", "--out", "data", "-q"]);
    let indexed = run(&["index", "data", "--model", &model, "--out", "index"]);
    assert!(indexed.err.contains("item `b` has no part that can be embedded"), "{}", indexed.err);
    let hits = run(&["search", "index", "bread", "--json"]).json();
    assert_eq!(hits[0]["id"], "c", "{hits}");
}
