//! Vectors of coarser precisions against those of `f32`: every family's tiny model, and real ones.
//!
//! Tolerances: cosine 0.9995 for bf16, 0.99 for bytes; a tower that recognises nothing yet (random
//! weights) is held to the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use conjoin_core::{Embedder, Embeddings, Modality, Stop, Task, Tower};
use conjoin_model::{Model, ModelPrecision, Precision, Sample, TowerPrecision, nearness};

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
        tower.parameters().iter().map(|p| p.name.clone()).collect()
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

fn sample(case: &Path) -> Sample {
    let inputs: serde_json::Value =
        serde_json::from_slice(&fs_err::read(case.join("inputs.json")).unwrap()).unwrap();
    let list = |key: &str| -> Vec<String> { serde_json::from_value(inputs[key].clone()).unwrap() };
    let images = list("images").iter().map(|name| fs_err::read(case.join(name)).unwrap()).collect();
    Sample { texts: list("texts"), task: Task::Plain, images }
}

#[test]
fn calibration_measures_each_precision_and_takes_one_that_is_near() {
    let case = root().join("testdata/parity/clip/quick_gelu");
    let mut model = Model::open(&case.join("checkpoint")).unwrap();
    let exact = vectors(&model, &case);
    let found = model.calibrate(&sample(&case), &Stop::default()).unwrap();
    assert_eq!(model.precision(), found.precision());
    let (text, image) = (found.text.unwrap(), found.image.unwrap());
    for (tower, exact) in [(text, &exact[0].1), (image, &exact[1].1)] {
        let precisions = tower.measured.iter().map(|m| m.precision.precision);
        let all = [Precision::F32, Precision::Bf16, Precision::Int8];
        assert_eq!(precisions.collect::<Vec<_>>(), all, "all are near enough without exceptions");
        assert_eq!(tower.measured[0].min_cosine, 1.0);
        assert!(tower.measured[1].min_cosine > tower.measured[2].min_cosine);
        assert!(tower.measured[1].packed_bytes < tower.measured[0].packed_bytes);
        assert!(tower.measured[2].packed_bytes < tower.measured[1].packed_bytes);
        assert!(tower.measured.iter().all(|m| m.accepted && m.seconds > 0.0));
        assert_eq!(tower.n_inputs, exact.len());
        let fastest = tower.measured.iter().map(|m| m.seconds).fold(f64::INFINITY, f64::min);
        assert_eq!(tower.chosen().seconds, fastest);
    }
    let stopped = Stop::default();
    stopped.request();
    assert!(model.calibrate(&sample(&case), &stopped).is_err());
}

/// An encoder whose last layer has an input that is always zero, with weights so large that beside them
/// the others are nothing in bytes.
fn with_an_outlier(case: &Path) -> Model {
    let (spec, mut parts) = Model::open(&case.join("checkpoint")).unwrap().into_parts();
    let tower = parts.text.as_mut().unwrap();
    let mut set = |name: &str, change: &dyn Fn(&mut [f32])| {
        let parameter = tower.parameters_mut().iter_mut().find(|p| p.name == name).unwrap();
        change(&mut parameter.value);
    };
    // The first hidden number is GELU(−1000) = 0 whatever the input.
    set("text.layers.1.mlp.up.bias", &|bias| bias[0] = -1000.0);
    set("text.layers.1.mlp.down.weight", &|weight| {
        let width = weight.len() / 32;
        weight.iter_mut().step_by(width).for_each(|w| *w = 30.0);
    });
    Model::new(spec, parts, "an outlier".to_owned()).unwrap()
}

#[test]
fn calibration_finds_the_weight_that_bytes_are_too_coarse_for() {
    let case = root().join("testdata/parity/sentence_encoders/bert");
    let mut model = with_an_outlier(&case);
    let texts = vec!["a red apple".to_owned(), "two green pears and a lemon".to_owned()];
    let sample = Sample { texts, ..Sample::default() };
    let found = model.calibrate(&sample, &Stop::default()).unwrap().text.unwrap();
    let [_, bf16, int8, mixed] = found.measured.as_slice() else { panic!("{found:?}") };
    assert!(bf16.accepted && !int8.accepted && mixed.accepted, "{found:?}");
    assert_eq!(mixed.precision.precision, Precision::Int8);
    let exceptions: Vec<_> = mixed.precision.exceptions.iter().collect();
    assert_eq!(exceptions, [(&"text.layers.1.mlp.down.weight".to_owned(), &Precision::Bf16)]);
}

#[test]
fn nearness_is_of_directions_or_of_scores() {
    let rows = |width, values: &[f32]| Embeddings::new(width, values.to_vec()).unwrap();
    let wide = |x: f32, y: f32| [&[x, y][..], &[0.0; 6]].concat();
    let a = rows(8, &[wide(1.0, 0.0), wide(0.0, 0.0)].concat());
    let b = rows(8, &[wide(3.0, 4.0), wide(0.0, 0.0)].concat());
    let (least, mean) = nearness(&a, &b);
    assert!((least - 0.6).abs() < 1e-6 && (mean - 0.8).abs() < 1e-6, "{least} {mean}");
    let c = rows(8, &[wide(2.0, 0.0), wide(0.0, 1.0)].concat());
    assert_eq!(nearness(&a, &c).0, 0.0, "zeros have no direction");
    // Scores: the same up to scale and shift.
    let (least, _) = nearness(&rows(1, &[1.0, 2.0, 4.0]), &rows(1, &[13.0, 15.0, 19.0]));
    assert!((least - 1.0).abs() < 1e-12);
    assert!(nearness(&rows(1, &[1.0, 2.0, 4.0]), &rows(1, &[4.0, 2.0, 1.0])).0 < 0.0);
}
