//! Vectors of coarser precisions against those of `f32`: every family's tiny model, and real ones.
//!
//! Tolerances: cosine 0.9995 for bf16, 0.99 for bytes; a tower that recognises nothing yet (random
//! weights) is held to the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use conjoin_core::{Embedder, Embeddings, Modality, Task};
use conjoin_model::{Model, ModelPrecision, Precision, TowerPrecision};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Folders under `testdata/parity` with a checkpoint that embeds, and its inputs.
fn cases() -> Vec<PathBuf> {
    let families = ["clip", "jina_clip", "open_clip", "siglip", "sentence_encoders", "timm"];
    let mut cases: Vec<PathBuf> = families
        .iter()
        .flat_map(|family| fs_err::read_dir(root().join("testdata/parity").join(family)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("inputs.json").exists() && path.join("checkpoint").exists())
        .collect();
    cases.sort();
    assert!(cases.len() >= 20, "{} cases", cases.len());
    cases
}

/// The vectors of a case's inputs.
fn vectors(model: &Model, case: &Path) -> Vec<(Modality, Embeddings)> {
    let inputs: serde_json::Value =
        serde_json::from_slice(&fs_err::read(case.join("inputs.json")).unwrap()).unwrap();
    let list = |key: &str| -> Vec<String> {
        serde_json::from_value(inputs.get(key).cloned().unwrap_or_default()).unwrap_or_default()
    };
    let mut all = Vec::new();
    let texts = list("texts");
    if model.modalities().contains(&Modality::Text) && !texts.is_empty() {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        all.push((Modality::Text, model.embed_texts(&texts, &Task::Plain).unwrap().vectors));
    }
    if model.modalities().contains(&Modality::Image) {
        let files: Vec<Vec<u8>> =
            list("images").iter().map(|name| fs_err::read(case.join(name)).unwrap()).collect();
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let rows = model.embed_images(&files).unwrap().into_iter().flat_map(Result::unwrap);
        all.push((Modality::Image, Embeddings::new(model.width(), rows.collect()).unwrap()));
    }
    all
}

fn min_cosine(a: &Embeddings, b: &Embeddings) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    a.rows().zip(b.rows()).map(cosine).filter(|c| !c.is_nan()).fold(1.0, f64::min)
}

#[test]
fn every_family_keeps_its_vectors_in_bf16_and_bytes() {
    for case in cases() {
        let open = || Model::open(&case.join("checkpoint")).unwrap();
        let exact = vectors(&open(), &case);
        for (precision, least) in [(Precision::Bf16, 0.9995), (Precision::Int8, 0.99)] {
            let found = vectors(&open().with_precision(precision), &case);
            for ((modality, exact), (_, found)) in exact.iter().zip(&found) {
                let cosine = min_cosine(exact, found);
                let name = case.strip_prefix(root()).unwrap().display().to_string();
                assert!(cosine >= least, "{name} {modality} {precision:?}: cosine {cosine}");
                assert_ne!(exact, found, "{name} {modality} {precision:?}: nothing is coarser");
            }
        }
    }
}

#[test]
fn exceptions_are_made_by_name() {
    let case = root().join("testdata/parity/clip/quick_gelu");
    let mut model = Model::open(&case.join("checkpoint")).unwrap();
    let exact = vectors(&model, &case);

    let names = |model: &Model| -> Vec<String> {
        let tower = model.parts().text.as_ref().unwrap();
        conjoin_core::Tower::parameters(tower).iter().map(|p| p.name.clone()).collect()
    };
    let all: std::collections::BTreeMap<_, _> =
        names(&model).into_iter().map(|name| (name, Precision::F32)).collect();
    let mut found = [Precision::F32, Precision::Bf16, Precision::Int8].map(|precision| {
        let text = TowerPrecision { precision, exceptions: all.clone() };
        let precision = ModelPrecision { text: Some(text), image: None };
        model.set_precision(&precision).unwrap();
        assert_eq!(model.precision().text, precision.text);
        vectors(&model, &case)
    });
    assert_eq!(found[0], exact, "with every weight an exception nothing changes");
    // But in attention, which has no weights: it is computed of bf16 for both.
    assert_eq!(found[1], found[2]);
    let (text, image) = (found[1].remove(0).1, found[1].remove(0).1);
    assert!(min_cosine(&exact[0].1, &text) >= 0.9999);
    assert_eq!(image, exact[1].1);

    let unknown = [("text.nothing".to_owned(), Precision::F32)].into();
    let text = TowerPrecision { precision: Precision::Int8, exceptions: unknown };
    let error = model.set_precision(&ModelPrecision { text: Some(text), image: None });
    assert!(error.unwrap_err().to_string().contains("text.nothing"));
}
