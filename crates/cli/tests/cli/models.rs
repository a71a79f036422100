//! Models of other libraries: what `doctor` tells of them, and how `embed` reads long and large inputs.
//!
//! The models are the tiny ones of `testdata/parity`, in those libraries' own layouts.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::{Ran, conjoin, copy, recipe, trained};

fn checkpoint(case: &str) -> PathBuf {
    let path = format!("../../testdata/parity/{case}/checkpoint");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).canonicalize().unwrap()
}

#[track_caller]
fn doctor(model: &Path, more: &[&str]) -> Ran {
    let mut args = vec!["doctor", model.to_str().unwrap()];
    args.extend(more);
    conjoin(Path::new("."), &args)
}

#[test]
fn doctor_tells_rules_prompts_and_licence_and_compares_with_references() {
    let said = doctor(&checkpoint("jina_clip/v2"), &["--no-speed"]).expect(0).out;
    for part in [
        "Jina CLIP",
        "WARNING: `cc-by-nc-4.0` forbids commercial use",
        "text pooling: the mean of all tokens\n      config.json: text_config.pooler_type is",
        "--task retrieval.query: \"Represent the query for retrieving evidence documents: \"",
        "references: equal",
        "text.embedding     recording  max error",
    ] {
        assert!(said.contains(part), "{part} in:\n{said}");
    }
    let json = doctor(&checkpoint("jina_clip/v2"), &["--json"]).expect(0).json();
    assert_eq!(json["agrees"], true);
    assert_eq!(json["licence"], "cc-by-nc-4.0");
    assert_eq!(json["widths"], serde_json::json!([8, 16, 24, 36]));
    assert_eq!(json["speed"].as_array().map(Vec::len), Some(4));
    let stages = json["references"].as_array().unwrap();
    assert!(stages.iter().all(|stage| stage["max_error"].as_f64().unwrap() <= 1e-4));
}

#[test]
fn doctor_reads_models_that_rank() {
    let said = doctor(&checkpoint("cross_encoders/bert"), &[]).expect(0).out;
    assert!(said.contains("cross-encoder on bert") && said.contains("scores of pairs"), "{said}");
    assert!(said.contains("references: equal") && said.contains("pair.scores"), "{said}");
    assert!(said.contains("documents of a line, 16 at once"), "{said}");
    let json = doctor(&checkpoint("colbert/stanford"), &["--no-speed", "--json"]).expect(0).json();
    assert_eq!(json["agrees"], true);
    assert!(json["family"].as_str().unwrap().contains("Stanford's ColBERT"));
}

#[test]
fn doctor_says_no_to_a_model_that_is_read_wrongly() {
    let dir = tempdir().unwrap();
    let case = checkpoint("sentence_encoders/bert");
    copy(case.parent().unwrap(), dir.path());
    let pooling = dir.path().join("checkpoint/1_Pooling/config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&pooling).unwrap()).unwrap();
    config["pooling_mode"] = "cls".into();
    fs_err::write(&pooling, config.to_string()).unwrap();
    let ran = doctor(&dir.path().join("checkpoint"), &["--no-speed"]).expect(1);
    assert!(ran.out.contains("references: NOT EQUAL"), "{}", ran.out);
    assert!(ran.out.contains("! text.pooled"), "{}", ran.out);
}

#[test]
fn doctor_reads_our_own_checkpoints() {
    let said = doctor(&trained().join("run/model"), &["--no-speed"]).expect(0).out;
    assert!(said.contains("conjoin checkpoint"), "{said}");
    assert!(said.contains("picture tower: MobileNet v1"), "{said}");
}

#[test]
fn doctor_reads_an_exported_model_by_the_layout_it_has() {
    let dir = tempdir().unwrap();
    let model = checkpoint("clip/quick_gelu");
    let model = model.to_str().unwrap();
    conjoin(dir.path(), &["export", model, "--to", "open_clip", "--out", "away"]).expect(0);
    let said = doctor(&dir.path().join("away"), &["--no-speed"]).expect(0).out;
    assert!(said.contains("away: open_clip") && said.contains("rules, and what"), "{said}");
}

#[test]
fn an_unknown_value_is_an_error_that_names_it() {
    let dir = tempdir().unwrap();
    let case = checkpoint("sentence_encoders/bert");
    copy(case.parent().unwrap(), dir.path());
    let path = dir.path().join("checkpoint/config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    config["hidden_act"] = "mish".into();
    fs_err::write(&path, config.to_string()).unwrap();
    let said = doctor(&dir.path().join("checkpoint"), &[]).expect(2).err;
    assert!(
        said.contains("`config.json`: `hidden_act` is \"mish\", this build implements"),
        "{said}"
    );
}

/// Trains two steps on the small shop from `start`, and gives the model's folder.
#[track_caller]
fn fine_tuned(dir: &TempDir, start: &str) -> PathBuf {
    let old = recipe(2);
    let lines = old.lines().map(|line| match line.starts_with("start.towers") {
        true => start,
        false => line,
    });
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let data = trained().join("data").display().to_string();
    let text = text.replace("\"data\"", &format!("\"{data}\""));
    fs_err::write(dir.path().join("recipe.toml"), text).unwrap();
    conjoin(dir.path(), &["train", "recipe.toml", "--out", "run"]).expect(0);
    dir.path().join("run/model")
}

#[test]
fn pairs_of_towers_of_other_libraries_are_fine_tuned() {
    for case in ["clip/quick_gelu", "siglip/v1", "jina_clip/v1", "open_clip/eva"] {
        let dir = tempdir().unwrap();
        let model = checkpoint(case);
        let tuned = fine_tuned(&dir, &format!("start.checkpoint = \"{}\"", model.display()));
        let before = doctor(&model, &["--no-speed", "--json"]).expect(0).json();
        let after = doctor(&tuned, &["--no-speed", "--json"]).expect(0).json();
        for key in ["width", "max_tokens", "image_size", "parameters"] {
            assert_eq!(before[key], after[key], "{case}: {key}");
        }
        assert_ne!(before["fingerprint"], after["fingerprint"], "{case}");
    }
}

#[test]
fn text_towers_of_other_libraries_get_a_head_and_keep_their_prompts() {
    let dir = tempdir().unwrap();
    let model = checkpoint("sentence_encoders/xlm_roberta");
    let towers = format!(
        "start.towers = {{ image_size = 64, width = 20, max_tokens = 16, \
         text.sentence_transformer = \"{}\" }}",
        model.display()
    );
    let tuned = fine_tuned(&dir, &towers);
    let tasks =
        |model: &Path| doctor(model, &["--no-speed", "--json"]).expect(0).json()["tasks"].clone();
    assert_eq!(tasks(&tuned), tasks(&model));
    assert_eq!(doctor(&tuned, &["--no-speed", "--json"]).expect(0).json()["width"], 20);
}

/// Embeds three lines with a tiny BERT that reads few tokens.
#[track_caller]
fn embed(dir: &TempDir, out: &str, more: &[&str]) -> Ran {
    let long = "the small brown fox jumps over a lazy dog and runs away ".repeat(40);
    fs_err::write(dir.path().join("lines.txt"), format!("a dog\n{long}\n\n")).unwrap();
    let model = checkpoint("sentence_encoders/bert");
    let mut args = vec!["embed", "lines.txt", "--model", model.to_str().unwrap(), "--out", out];
    args.extend(more);
    conjoin(dir.path(), &args)
}

#[test]
fn truncation_is_told_and_can_be_avoided() {
    let dir = tempdir().unwrap();
    let said = embed(&dir, "cut", &[]).expect(0).err;
    assert!(said.contains("1 of 3 lines of `lines.txt` have more than"), "{said}");
    let tokens = |out: &str| -> Vec<(usize, usize)> {
        let file = fs_err::read_to_string(dir.path().join(out).join("text.tokens.tsv")).unwrap();
        let number = |text: &str| text.parse().unwrap();
        file.lines()
            .map(|l| l.split_once('\t').unwrap())
            .map(|(a, b)| (number(a), number(b)))
            .collect()
    };
    let cut = tokens("cut");
    assert!(cut.len() == 3 && cut[0].0 == cut[0].1 && cut[1].0 < cut[1].1, "{cut:?}");
    for way in ["mean", "late"] {
        let said = embed(&dir, way, &["--long-text", way]).expect(0).err;
        assert!(!said.contains("have more than"), "{said}");
        assert!(tokens(way).iter().all(|(used, total)| used == total));
    }
}

#[test]
fn a_task_without_a_prompt_is_an_error_that_lists_those_there_are() {
    let dir = tempdir().unwrap();
    for task in ["plain", "query", "passage", "document"] {
        embed(&dir, "out", &["--task", task]).expect(0);
    }
    let said = embed(&dir, "out", &["--task", "jokes"]).expect(2).err;
    assert!(said.contains("no prompt for the task `jokes`; it has none at all"), "{said}");
}
