//! The choices that a model leaves to its user: shorter vectors and the adapter of a task, on a tiny
//! Jina CLIP v2.

use std::path::{Path, PathBuf};

use crate::support::{beside, read_json, run};

/// A checkpoint whose vectors of 36 numbers may be cut to 8, 16 and 24, with two adapters.
fn model() -> String {
    let path = "../../testdata/parity/jina_clip/v2/checkpoint";
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs_err::canonicalize(path).unwrap().display().to_string()
}

#[test]
fn embed_cuts_vectors_and_takes_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("queries.txt"), "red bicycle\nblue wall\n").unwrap();
    let embed = |more: &str, out: &str| {
        let line = format!("embed queries.txt --model {} --out {out} {more}", model());
        run(dir.path(), &line)
    };
    let fingerprint =
        |out: &str| read_json(dir.path().join(out).join("manifest.json"))["fingerprint"].clone();
    embed("", "whole").expect(0);
    let said = embed("--dimensions 16", "short").expect(0).err;
    assert!(said.contains("2 text vectors of width 16"), "{said}");
    embed("--adapter retrieval.passage", "passage").expect(0);
    assert_ne!(fingerprint("whole"), fingerprint("short"));
    assert_ne!(fingerprint("whole"), fingerprint("passage"));
    let said = embed("--dimensions 17", "odd").expect(2).err;
    assert!(said.contains("17 dimensions were asked for"), "{said}");
    assert!(said.contains("[8, 16, 24, 36]"), "{said}");
    let said = embed("--adapter clustering", "odd").expect(2).err;
    assert!(said.contains("retrieval.passage, retrieval.query"), "{said}");
}

#[test]
fn search_follows_the_index_in_dimensions_and_adapter() {
    let (dir, data) = beside("data");
    let choice = "--dimensions 24 --adapter retrieval.passage";
    let line = format!("index {data} --model {} --out index {choice}", model());
    run(dir.path(), &line).expect(0);
    let manifest = read_json(dir.path().join("index/manifest.json"));
    assert_eq!(manifest["facts"]["adapter"], "retrieval.passage");
    run(dir.path(), "search index apple").expect(0);
}
