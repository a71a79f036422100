//! `--precision`: every command that embeds takes it, and what is written tells it.

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
        assert_eq!(facts["precision"]["image"]["precision"], precision);
    }
    let bytes = |name: &str| fs_err::read(dir.path().join(name).join("text.npy")).unwrap();
    assert_ne!(bytes("f32"), bytes("int8"));
    run(dir.path(), &format!("index {data} --model {model} --out index --precision int8"))
        .expect(0);
    let manifest = read_json(dir.path().join("index/manifest.json"));
    assert_eq!(manifest["facts"]["precision"]["image"]["precision"], "int8");
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
