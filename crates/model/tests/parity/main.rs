//! Towers against PyTorch: every layer, the embeddings and every gradient, on the library's own files.
//!
//! Tolerances: hidden states and embeddings 1e-4 absolute and cosine 0.99999; gradients 5e-4 of the
//! tensor's largest value. Reference: `testdata/parity/{towers,minilm,mobilenet}/make.py`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test tells and fails by panicking"
)]

mod case;
mod clip;
mod export;
mod image_text;
mod sentence_encoders;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use conjoin_core::{Embedder, Embeddings, Gradients, Seed, Task, Tower};
use conjoin_input::{ImageContract, Pixels};
use conjoin_model::reference::Executor;
use conjoin_model::{
    ImageSpec, ImageTower, MobileNetBlock, MobileNetSpec, Model, NameMap, Source, Weights,
    families::mobilenet,
};
use safetensors::SafeTensors;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CONJOIN_SHARED")
        .map_or_else(|| root().join("../shared"), PathBuf::from)
        .join(path);
    if folder.exists() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there (see CONJOIN_SHARED)", folder.display());
    None
}

/// No tensor is left out.
const NONE: &[&str] = &[];

/// A golden file: any number type, by name.
struct Golden(Vec<u8>);

impl Golden {
    fn open(path: &str) -> Self {
        Self(fs_err::read(root().join("testdata/parity").join(path)).unwrap())
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let data = file.tensor(name).unwrap_or_else(|_| panic!("{name}")).data().to_vec();
        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn i64(&self, name: &str) -> Option<Vec<u32>> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let data = file.tensor(name).ok()?.data().to_vec();
        Some(data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect())
    }

    fn ids(&self) -> Vec<Vec<u32>> {
        (0..).map_while(|i| self.i64(&format!("ids.{i}"))).collect()
    }

    fn pixels(&self, name: &str) -> Vec<Pixels> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let &[_, h, w, 3] = view.shape() else { panic!("pixels are [b, h, w, 3]") };
        let images = view.data().chunks(h * w * 3);
        images.map(|data| Pixels::new(w, h, data.to_vec()).unwrap()).collect()
    }

    /// The gradients alone, under the names of the tensors they belong to.
    fn gradients(&self) -> Weights {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let named: Vec<_> = file
            .tensors()
            .into_iter()
            .filter_map(|(name, view)| Some((name.strip_prefix("grad.")?.to_owned(), view)))
            .collect();
        Weights::from_bytes(safetensors::serialize(named, None).unwrap()).unwrap()
    }
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: size");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance, "{what}[{i}]: {f} for {e}");
    }
}

#[track_caller]
fn assert_embeddings(found: &Embeddings, expected: &[f32]) {
    assert_close("embeddings", found.values(), expected, 1e-4);
    for (row, expected) in found.rows().zip(expected.chunks(found.width())) {
        // A text without tokens has zeros where a table is all there is.
        if expected.iter().all(|v| *v == 0.0) {
            assert!(row.iter().all(|v| *v == 0.0), "{row:?} for zeros");
            continue;
        }
        let cosine: f32 = row.iter().zip(expected).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.99999, "cosine {cosine}");
    }
}

/// Checks hidden states of input 0, embeddings of all inputs, and all gradients.
#[track_caller]
fn check<T: Tower>(
    tower: &T,
    inputs: &[&T::Input],
    golden: &Golden,
    observed: &BTreeMap<String, Vec<f32>>,
    expected_gradient: &dyn Fn(&str) -> Option<Vec<f32>>,
) {
    for (name, value) in observed {
        let golden_name = if name == "pooled" { "pooled.0" } else { name.as_str() };
        assert_close(name, value, &golden.f32(golden_name), 1e-4);
    }
    let expected = golden.f32("embeddings");
    assert_embeddings(&tower.embed(inputs).unwrap(), &expected);

    let (embeddings, recording) = tower.record(inputs).unwrap();
    assert_embeddings(&embeddings, &expected);
    let upstream = Embeddings::new(tower.width(), golden.f32("upstream")).unwrap();
    let mut gradients = Gradients::zeros(tower.parameters());
    tower.backward(recording, &upstream, &mut gradients);
    let mut n = 0;
    for (parameter, found) in tower.parameters().iter().zip(gradients.iter()) {
        let (_, name) = parameter.name.split_once('.').unwrap();
        let Some(mut expected) = expected_gradient(name) else { continue };
        if name == "tokens.weight" && expected[..parameter.shape[1]].iter().all(|g| *g == 0.0) {
            // PyTorch's BERT has `padding_idx = 0`: it never trains that row. We never pad, so for us
            // id 0 is a token like any other.
            expected[..parameter.shape[1]].copy_from_slice(&found[..parameter.shape[1]]);
        }
        let largest = expected.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
        assert_close(&parameter.name, found, &expected, 5e-4 * largest);
        n += 1;
    }
    assert_eq!(n, tower.parameters().len(), "every parameter's gradient is compared");
}

fn case(name: &str) -> (Weights, Vec<u8>, Golden) {
    let folder = root().join("testdata/parity/towers").join(name);
    (
        Weights::open(&folder.join("model.safetensors")).unwrap(),
        fs_err::read(folder.join("config.json")).unwrap(),
        Golden::open(&format!("towers/{name}/golden.safetensors")),
    )
}

fn observed(tower: &ImageTower, pixels: &Pixels) -> BTreeMap<String, Vec<f32>> {
    let mut observed = BTreeMap::new();
    let mut observe = |name: &str, value: &conjoin_engine::Tensor| {
        if name != "embedding" {
            observed.insert(name.to_owned(), value.values().to_vec());
        }
    };
    tower.observe(&[pixels], Executor::Inferring, &mut observe).unwrap();
    observed
}

/// The chain rule from batch norm's γ and β to our scale `γ/σ` and shift `β − μγ/σ`, inverted:
/// `dβ = dshift` and `dγ = (dscale − μ dshift) / σ`, hence `dscale = σ dγ + μ dβ`.
fn norm_gradient(weights: &Weights, gradients: &Weights, source: &Source) -> Vec<f32> {
    let part = |file: &Weights, prefix: &str, part: &str| {
        file.tensor(&format!("{prefix}/{part}")).unwrap().1.to_vec()
    };
    match source {
        Source::NormShift(prefix) => part(gradients, prefix, "beta"),
        Source::NormScale(prefix) => {
            let (d_gamma, d_beta) =
                (part(gradients, prefix, "gamma"), part(gradients, prefix, "beta"));
            let (mean, variance) =
                (part(weights, prefix, "moving_mean"), part(weights, prefix, "moving_variance"));
            (0..mean.len())
                .map(|i| (variance[i] + 1e-3).sqrt() * d_gamma[i] + mean[i] * d_beta[i])
                .collect()
        }
        Source::Same(_)
        | Source::Rows(_)
        | Source::RowsFrom(..)
        | Source::Span(..)
        | Source::Adapted { .. }
        | Source::TokenRows { .. }
        | Source::Transposed(_)
        | Source::Flattened(_)
        | Source::PatchKernel(_) => panic!("{source:?} is no norm"),
    }
}

#[test]
fn parity_mobilenet_with_gradients() {
    let (weights, _, golden) = case("mobilenet_tiny");
    let blocks = [(8, 1), (16, 2), (16, 1), (24, 2)];
    let blocks = blocks.map(|(filters, stride)| MobileNetBlock { filters, stride }).to_vec();
    let spec = MobileNetSpec {
        image_size: 32,
        stem_filters: 8,
        stem_stride: 2,
        blocks,
        projection: Some(24),
    };
    let mut names = mobilenet::names(4);
    names.push(("projection.weight".into(), Source::Transposed("projection/kernel".into())));
    let map = NameMap::read(&weights, &names, NONE).unwrap();
    let contract = ImageContract::inception(32);
    let tower = ImageTower::build(&ImageSpec::MobileNet(spec), &contract, &map, Seed(0)).unwrap();

    let gradients = golden.gradients();
    let is_norm = |s: &Source| matches!(s, Source::NormScale(_) | Source::NormShift(_));
    let linear: Vec<_> = names.iter().filter(|(_, s)| !is_norm(s)).cloned().collect();
    let mapped = NameMap::read(&gradients, &linear, &["conv"]).unwrap();
    let expected = |name: &str| -> Option<Vec<f32>> {
        let (_, source) = names.iter().find(|(ours, _)| ours == name)?;
        if is_norm(source) {
            return Some(norm_gradient(&weights, &gradients, source));
        }
        mapped.get(name).map(|(_, v)| v.to_vec())
    };
    let pixels = golden.pixels("pixels");
    let inputs: Vec<_> = pixels.iter().collect();
    check(&tower, &inputs, &golden, &observed(&tower, &pixels[0]), &expected);
}

fn bundled_mobilenet(size: usize) -> (ImageTower, Vec<f32>) {
    let file = Weights::open(&root().join("assets/mobilenet/model.safetensors")).unwrap();
    let spec = MobileNetSpec::v1(0.75, size, None);
    let names = mobilenet::names(spec.blocks.len());
    let map = NameMap::read(&file, &names, &mobilenet::IGNORED).unwrap();
    let contract = mobilenet::contract(size);
    let tower = ImageTower::build(&ImageSpec::MobileNet(spec), &contract, &map, Seed(0)).unwrap();
    (tower, file.tensor("conv_preds/kernel").unwrap().1.to_vec())
}

#[test]
fn the_bundled_mobilenet_gives_the_references_features_and_recognises_its_classes() {
    let golden = Golden::open("mobilenet/golden.safetensors");
    for size in [224, 128] {
        let (tower, classifier) = bundled_mobilenet(size);
        for picture in ["banana", "granny_smith", "lemon", "orange"] {
            let file = format!("testdata/parity/mobilenet/{picture}.{size}.png");
            let bytes = fs_err::read(root().join(file)).unwrap();
            let pixels =
                conjoin_input::decode(&bytes, &conjoin_input::ImageLimits::default()).unwrap();
            let features = observed(&tower, &pixels).remove("pooled").unwrap();
            assert_close(
                picture,
                &features,
                &golden.f32(&format!("features.{picture}.{size}")),
                2e-3,
            );
            let mut classes: Vec<(f32, u32)> = (0..1000)
                .map(|class| {
                    let weights = classifier.iter().skip(class).step_by(1000);
                    (features.iter().zip(weights).map(|(f, w)| f * w).sum(), class as u32)
                })
                .collect();
            classes.sort_by(|a, b| b.0.total_cmp(&a.0));
            let top5: Vec<u32> = classes[..5].iter().map(|(_, class)| *class).collect();
            let expected = golden.i64(&format!("expected.{picture}")).unwrap()[0];
            assert!(top5.contains(&expected), "{picture} at {size}: {top5:?}, expected {expected}");
        }
    }
}

#[test]
fn parity_minilm() {
    let Some(folder) = shared("weights/all-MiniLM-L6-v2") else { return };
    let model = Model::open(&folder).unwrap();
    let golden = Golden::open("minilm/golden.safetensors");
    let texts = fs_err::read(root().join("testdata/parity/minilm/texts.json")).unwrap();
    let texts: serde_json::Value = serde_json::from_slice(&texts).unwrap();
    let texts: Vec<&str> =
        texts["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for (text, expected) in texts.iter().zip(golden.ids()) {
        assert_eq!(model.tokenize(text).unwrap().ids, expected, "{text:?}");
    }
    assert_embeddings(
        &model.embed_texts(&texts, &Task::Plain).unwrap().vectors,
        &golden.f32("embeddings"),
    );
}

#[test]
fn parity_static_embeddings_of_model2vec_with_gradients() {
    case::check("static/model2vec");
}

#[test]
fn parity_static_embeddings_of_a_quantised_vocabulary() {
    case::check("static/model2vec_quantised");
}

#[test]
fn parity_static_embeddings_of_sentence_transformers() {
    case::check("static/sentence_transformers");
}

#[test]
fn static_embeddings_count_what_they_cut_and_stay_the_same_when_stored() {
    let case = case::Case::open("static/model2vec_quantised");
    let model = case.model();
    let long = "how do I bake bread without an oven? ".repeat(9);
    let tokens = model.tokenize(&long).unwrap();
    assert!(tokens.ids.len() <= 9 && tokens.total > 9 * 9, "{tokens:?}");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    model.save(&folder, conjoin_core::Manifest::new("", 0)).unwrap();
    let again = Model::open(&folder).unwrap();
    let texts = ["", "Paris 🍞", long.as_str()];
    let embed = |model: &Model| model.embed_texts(&texts, &Task::Plain).unwrap().vectors;
    assert_eq!(embed(&again), embed(&model));
    assert_eq!(again.fingerprint(), model.fingerprint());
}
