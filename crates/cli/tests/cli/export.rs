//! A trained model in the layouts of Python's libraries. That they open it is `testdata/parity/export`'s.

use crate::support::{beside, names, read_json, run, trained};

#[test]
fn exports_a_trained_pair_with_its_card() {
    let (dir, model) = beside("run/model");
    let line = format!("export {model} --to sentence-transformers --out exported");
    let ran = run(dir.path(), &line).expect(0);
    assert!(ran.out.contains("model = SentenceTransformer(\"exported\")"), "{}", ran.out);
    let folder = dir.path().join("exported");
    let router = read_json(folder.join("router_config.json"));
    assert_eq!(router["structure"]["image"].as_array().unwrap().len(), 3, "{router}");
    assert_eq!(read_json(folder.join("text_0_Transformer/config.json"))["model_type"], "esm");

    let card = fs_err::read_to_string(folder.join("README.md")).unwrap();
    let manifest = read_json(trained().join("run/model/manifest.json"));
    let data = manifest["inputs"]["data"].as_str().unwrap();
    for part in ["license: apache-2.0", "| held out |", data, "peak_lr = 0.001", "up to 32 tokens"]
    {
        assert!(card.contains(part), "{part} is not in\n{card}");
    }
    // The same command replaces its own work.
    run(dir.path(), &line).expect(0);
    assert_eq!(names(dir.path()), ["exported"]);
}

#[test]
fn refuses_what_a_library_cannot_say_and_folders_of_others() {
    let (dir, model) = beside("run/model");
    let ran = run(dir.path(), &format!("export {model} --to open_clip --out x")).expect(2);
    assert!(ran.err.contains("open_clip cannot say"), "{}", ran.err);
    assert!(ran.err.contains("hf and sentence-transformers"), "{}", ran.err);
    assert!(names(dir.path()).is_empty(), "nothing is left behind");

    fs_err::create_dir(dir.path().join("mine")).unwrap();
    fs_err::write(dir.path().join("mine/notes.txt"), "x").unwrap();
    let ran = run(dir.path(), &format!("export {model} --to hf --out mine")).expect(2);
    assert!(ran.err.contains("it is not replaced"), "{}", ran.err);
    assert_eq!(names(&dir.path().join("mine")), ["notes.txt"]);
}
