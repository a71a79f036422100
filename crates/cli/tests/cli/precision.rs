//! `--precision`: every command that embeds takes it, and what is written tells it.

use std::path::Path;

use crate::support::{beside, conjoin, read_json, run, trained};

#[test]
fn vectors_and_indexes_tell_their_precision() {
    let (dir, model) = beside("run/model");
    let data = trained().join("data").display().to_string();
    for precision in ["f32", "bf16", "int8"] {
        let line =
            format!("embed {data} --model {model} --out {precision} --precision {precision}");
        run(dir.path(), &line).expect(0);
        let facts = read_json(dir.path().join(precision).join("manifest.json"))["facts"].clone();
        assert_eq!(facts["precision"]["text"]["precision"], precision);
        // Bytes are too coarse for a MobileNet.
        let image = if precision == "int8" { "bf16" } else { precision };
        assert_eq!(facts["precision"]["image"]["precision"], image);
    }
    let bytes = |name: &str| fs_err::read(dir.path().join(name).join("text.npy")).unwrap();
    assert_ne!(bytes("f32"), bytes("int8"));
    run(dir.path(), &format!("index {data} --model {model} --out index --precision int8"))
        .expect(0);
    let manifest = read_json(dir.path().join("index/manifest.json"));
    assert_eq!(manifest["facts"]["precision"]["text"]["precision"], "int8");
    assert_eq!(manifest["facts"]["precision"]["image"]["precision"], "bf16");
    // The fingerprint is the model's, so that any precision searches any index.
    for precision in ["f32", "int8"] {
        let args = ["search", "index", "bottle", "--json", "--precision", precision];
        assert!(!conjoin(dir.path(), &args).expect(0).json().as_array().unwrap().is_empty());
    }
}

#[test]
fn every_command_that_embeds_takes_a_precision() {
    let (dir, model) = beside("run/model");
    let data = trained().join("data").display().to_string();
    let said = run(dir.path(), &format!("eval --model {model} --data {data} --precision bf16"));
    assert!(said.expect(0).out.contains("text_to_image"));
    run(dir.path(), &format!("doctor {model} --precision int8")).expect(0);
    for command in ["embed", "index", "search", "eval", "serve", "rerank", "doctor", "adapt"] {
        let help = run(dir.path(), &format!("{command} --help")).expect(0).out;
        assert!(help.contains("--precision <"), "{command}");
    }
    let said = run(dir.path(), &format!("embed x.txt --model {model} --out v --precision int4"));
    assert!(said.expect(2).err.contains("expected `f32`, `bf16`"));
}

#[test]
fn auto_measures_on_the_inputs_and_is_told() {
    let (dir, model) = beside("run/model");
    let data = trained().join("data").display().to_string();
    let line = format!("index {data} --model {model} --out index --precision auto");
    let said = run(dir.path(), &line).expect(0).err;
    for part in ["precision: texts in ", "precision: pictures in ", "on 64 inputs"] {
        assert!(said.contains(part), "{part} in:\n{said}");
    }
    // The index is searched in the precision it was made in.
    let made = read_json(dir.path().join("index/manifest.json"))["facts"]["precision"].clone();
    assert!(made["text"]["precision"].is_string(), "{made}");
    let args = ["search", "index", "bottle", "--json", "--precision", "auto"];
    assert!(!conjoin(dir.path(), &args).expect(0).json().as_array().unwrap().is_empty());
    fs_err::write(dir.path().join("documents.txt"), "red apple\ngreen pear\nmilk\n").unwrap();
    let ranker = parity("cross_encoders/bert");
    let args = ["rerank", "apple", "documents.txt", "--model", &ranker, "--precision", "auto"];
    assert!(conjoin(dir.path(), &args).expect(0).err.contains("precision: texts in "));
    let said = run(dir.path(), &format!("doctor {model} --precision auto")).expect(2).err;
    assert!(said.contains("needs inputs to measure on: --texts FILE or --images DIR"), "{said}");
}

#[test]
fn doctor_compares_precisions_and_saves_the_one_it_found() {
    let (dir, model) = beside("run/model");
    fs_err::write(dir.path().join("texts.txt"), "red apple\n\ngreen pear\n").unwrap();
    let pictures = trained().join("shop/pictures").display().to_string();
    let line = format!(
        "doctor {model} --no-speed --texts texts.txt --images {pictures} --save-precision plan.json"
    );
    let said = run(dir.path(), &line).expect(0).out;
    for part in ["precisions of texts, on 2 inputs", "precisions of pictures, on 64 inputs", "int8"]
    {
        assert!(said.contains(part), "{part} in:\n{said}");
    }
    let json = run(dir.path(), &format!("{line} --json")).expect(0).json();
    let text = &json["precisions"]["text"];
    assert_eq!(text["measured"][0]["precision"], "f32");
    assert_eq!(text["measured"][0]["min_cosine"], 1.0);
    let plan = read_json(dir.path().join("plan.json"));
    let chosen = text["chosen"].as_u64().unwrap() as usize;
    assert_eq!(plan["precision"]["text"]["precision"], text["measured"][chosen]["precision"]);

    run(dir.path(), &format!("embed texts.txt --model {model} --out v --precision plan.json"))
        .expect(0);
    let facts = read_json(dir.path().join("v/manifest.json"))["facts"].clone();
    assert_eq!(facts["precision"]["text"], plan["precision"]["text"]);
    let other = parity("clip/quick_gelu");
    let line = format!("embed texts.txt --model {other} --out w --precision plan.json");
    assert!(run(dir.path(), &line).expect(2).err.contains("was made for another model"));
    fs_err::write(dir.path().join("plan.json"), "{}").unwrap();
    let line = format!("embed texts.txt --model {model} --out w --precision plan.json");
    assert!(run(dir.path(), &line).expect(2).err.contains("`plan.json` is no precision plan"));
}

#[test]
fn doctor_compares_precisions_of_models_that_rank() {
    let (dir, _) = beside("run");
    fs_err::write(dir.path().join("texts.txt"), "apple\nred apple\ngreen pear\nmilk\n").unwrap();
    for (case, n) in [("cross_encoders/bert", 3), ("colbert/bert", 4)] {
        let line = format!("doctor {} --no-speed --texts texts.txt --json", parity(case));
        let json = run(dir.path(), &line).expect(0).json();
        assert_eq!(json["precisions"]["text"]["n_inputs"], n, "{case}");
    }
}

fn parity(case: &str) -> String {
    let path = format!("../../testdata/parity/{case}/checkpoint");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    path.canonicalize().unwrap().display().to_string()
}
