//! A damaged index gives an error naming the file, never a panic.

use std::{error::Error, path::Path};

use crate::common::{build, direction, items, unit};
use conjoin_core::{MANIFEST_FILE, Modality, SearchRequest, Seed, Store, VectorName, hash_file};
use conjoin_index::Index;
use fs_err as fs;

const WIDTH: usize = 4;

fn files(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The error of opening or verifying, with its causes; searches what opens, which must not panic.
fn fault(path: &Path) -> Option<String> {
    let check = || {
        let index = Index::open(path)?;
        for over in VectorName::ALL {
            let query = unit(direction(Seed(3), WIDTH));
            let _ = index.search(&SearchRequest::new(query, Modality::Text, over, 5));
        }
        index.verify()
    };
    let error = check().err()?;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    Some(text)
}

/// Tells the manifest the present hash of a file, as a forger would.
fn forge(path: &Path, file: &str) {
    let manifest = path.join(MANIFEST_FILE);
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    json["files"][file] = hash_file(&path.join(file)).unwrap().into();
    fs::write(&manifest, serde_json::to_vec(&json).unwrap()).unwrap();
}

#[test]
fn truncated_missing_and_longer_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    build(&path, items(9, WIDTH, Seed(2)), None);
    assert_eq!(fault(&path), None);
    assert_eq!(files(&path).len(), 11);
    for name in files(&path) {
        let file = path.join(&name);
        let whole = fs::read(&file).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..0], &[&whole[..], b"x"].concat()] {
            fs::write(&file, damaged).unwrap();
            let text = fault(&path).unwrap_or_else(|| panic!("{name} damaged, but accepted"));
            assert!(text.contains(name.as_str()), "{text} should name {name}");
        }
        fs::remove_file(&file).unwrap();
        assert!(fault(&path).is_some_and(|text| text.contains("No such file")));
        fs::write(&file, &whole).unwrap();
    }
    assert_eq!(fault(&path), None);
}

/// Also when the manifest's hashes are made to fit, so that only the structural checks are left:
/// then damage may pass, but nothing panics.
#[test]
fn flipped_bits_are_refused_and_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    build(&path, items(9, WIDTH, Seed(2)), None);
    let manifest = fs::read(path.join(MANIFEST_FILE)).unwrap();
    for name in files(&path) {
        let file = path.join(&name);
        let whole = fs::read(&file).unwrap();
        let step = (whole.len() / 30).max(1);
        for at in (0..whole.len()).step_by(step) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, &flipped).unwrap();
            if name == MANIFEST_FILE {
                fault(&path); // a flipped fact is another fact
                continue;
            }
            assert!(fault(&path).is_some(), "bit of byte {at} of {name} flipped, but accepted");
            forge(&path, &name);
            fault(&path);
            fs::write(path.join(MANIFEST_FILE), &manifest).unwrap();
        }
        fs::write(&file, &whole).unwrap();
    }
    assert_eq!(fault(&path), None);
}

#[track_caller]
fn check_forged(file: &str, content: &[u8], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    build(&path, items(3, WIDTH, Seed(2)), None);
    fs::write(path.join(file), content).unwrap();
    forge(&path, file);
    let text = fault(&path).unwrap();
    assert!(text.contains(expected), "{text}");
}

#[test]
fn forged_files_are_refused_by_their_structure() {
    let numbers = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let expected = "`text.rows.u32` has an entry out of order or out of range at 1";
    check_forged("text.rows.u32", &numbers(&[0, 3]), expected);
    check_forged("text.rows.u32", &numbers(&[1, 0]), expected);
    check_forged("text.rows.u32", &numbers(&[1, 2]), "item `item 0`: it has neither");
    let offsets = |v: &[u64]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    check_forged("items.offsets.u64", &offsets(&[0, 9, 8, 20]), "out of range at 2");
    check_forged("items.offsets.u64", &offsets(&[1, 2, 3, 4]), "out of range at 0");
    check_forged("items.offsets.u64", &offsets(&[0, 1, 2, u64::MAX]), "`items.jsonl` has");
    let header = |text: &str| {
        format!(
            r#"{{"width":4,"items":3,"text_rows":2,"image_rows":2,"text_weight":1.0,"image_weight":1.0,"calibration":{text}}}"#
        )
    };
    let scale = r#"{"text_to_text":{"mean":0.0,"std":-1.0},"text_to_image":null,"image_to_text":null,"image_to_image":null}"#;
    check_forged("index.json", header(scale).as_bytes(), "`calibration.text_to_text` is");
    check_forged("index.json", header("3").as_bytes(), "`index.json` is not an index header");
    let wide = header("null").replace("\"width\":4", "\"width\":18446744073709551615");
    check_forged("index.json", wide.as_bytes(), "`width` is 18446744073709551615");
    let many = header("null").replace("\"items\":3", "\"items\":4294967295");
    check_forged("index.json", many.as_bytes(), "the header asks for");
}
