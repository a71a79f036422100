//! Models written back into the layout they came from, and into others.
//!
//! Every case of somebody else's layout is opened, exported to that layout and opened again: the same
//! tensors, the same vectors bit by bit. That the library itself gives them is `testdata/parity/export`'s.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use conjoin_core::{Embedder, Embeddings, Manifest, Seed, Task, Tower};
use conjoin_engine::Activation;
use conjoin_input::{ImageContract, InputContract, TextContract};
use conjoin_model::{
    AttentionRule, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, Card, EncoderInput, EncoderSpec, Export,
    ExportTarget, FolderLayout, ImageSpec, ImageTower, Matryoshka, MlpRule, MobileNetSpec, Model,
    ModelParts, ModelSpec, NameMap, NormPlacement, NormRule, OutputNorm, Pooling, TextTower,
    Weights,
};
use serde::Deserialize;

use crate::{assert_embeddings, root};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Inputs {
    texts: Vec<String>,
    images: Vec<PathBuf>,
}

/// Vectors of the inputs of a case.
fn vectors(model: &Model, case: &Path) -> (Option<Embeddings>, Vec<Vec<f32>>) {
    let inputs = case.join("inputs.json");
    let inputs: Inputs = if inputs.exists() {
        serde_json::from_slice(&fs_err::read(inputs).unwrap()).unwrap()
    } else {
        Inputs::default()
    };
    let texts: Vec<&str> = inputs.texts.iter().map(String::as_str).collect();
    let texts = model
        .parts()
        .text
        .as_ref()
        .map(|_| model.embed_texts(&texts, &Task::Plain).unwrap().vectors);
    let images: Vec<Vec<u8>> =
        inputs.images.iter().map(|file| fs_err::read(case.join(file)).unwrap()).collect();
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let images = match &model.parts().image {
        Some(_) => model.embed_images(&images).unwrap().into_iter().map(Result::unwrap).collect(),
        None => Vec::new(),
    };
    (texts, images)
}

/// Folders of parity cases that hold a model in somebody else's layout.
fn cases() -> Vec<PathBuf> {
    let inside = |folder: &Path| {
        let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        folders.sort();
        folders
    };
    let names = inside(&root().join("testdata/parity"));
    let cases = names.iter().flat_map(|name| inside(name));
    cases.filter(|case| case.join("checkpoint").exists()).collect()
}

/// The target that writes this layout.
fn target(layout: FolderLayout) -> Option<ExportTarget> {
    match layout {
        FolderLayout::SentenceTransformers => Some(ExportTarget::SentenceTransformers),
        FolderLayout::Transformers | FolderLayout::Timm => Some(ExportTarget::Hf),
        FolderLayout::OpenClip => Some(ExportTarget::OpenClip),
        FolderLayout::Keras => None,
    }
}

fn export(model: &Model, target: ExportTarget, folder: &Path) {
    let export = Export::of(model, target).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    export.write(model, "# A card\n", folder, Manifest::new("", 0)).unwrap();
}

/// Every tensor of the new file is the old file's.
fn assert_same_tensors(old: &Weights, new: &Weights, case: &Path) {
    // A merged adapter's factors become zero, the sum takes them in.
    let adapted = |name: &str| name.contains(".lora_") || name.ends_with(".original");
    // A quantised vocabulary gets a row per token.
    if ["mapping", "weights"].iter().any(|name| old.has(name)) {
        return;
    }
    let unused = |name: &str| name.contains("pooler.");
    for name in new.names().filter(|name| !adapted(name) && !unused(name)) {
        let (found, expected) = (new.tensor(name).unwrap(), old.tensor(name).unwrap());
        assert_eq!(found.0, expected.0, "{name} of {}", case.display());
        // Rows of positions that stand before the first token's are read by nobody; they become zeros.
        let unread = |(f, _): &(&f32, &f32)| name.contains("position") && **f == 0.0;
        let mut pairs = found.1.iter().zip(expected.1.iter()).filter(|pair| !unread(pair));
        assert!(pairs.all(|(f, e)| f == e), "{name} of {}", case.display());
    }
}

/// Lively numbers everywhere, also where a fresh tower has zeros and ones.
fn stirred(tower: &mut impl Tower) {
    for (n, parameter) in tower.parameters_mut().iter_mut().enumerate() {
        let noise = |i: usize| 0.1 * ((i * 7 + n * 13) as f32).sin();
        // So that pictures stay apart through all of MobileNet's layers.
        let gain = if parameter.name.ends_with(".scale") { 1.5 } else { 1.0 };
        let values: Vec<f32> =
            parameter.value.iter().enumerate().map(|(i, v)| gain * v + noise(i)).collect();
        parameter.value = values.into();
    }
}

/// A sentence encoder with a new head, as training from it makes one.
fn encoder_with_head() -> Model {
    let folder = root().join("testdata/parity/sentence_encoders/bert/checkpoint");
    let (mut spec, mut parts) = Model::open(&folder).unwrap().into_parts();
    let old = parts.text.take().unwrap();
    let with_head = old.spec().clone().projected(20);
    let map = NameMap::from_parameters(old.parameters());
    let mut tower = TextTower::build(&with_head, &map, Seed(3)).unwrap();
    stirred(&mut tower);
    parts.text = Some(tower);
    spec.text = Some(with_head);
    spec.contract.text.as_mut().unwrap().max_tokens = 24;
    Model::from_parts(spec, parts).unwrap()
}

/// The demo's two towers, small.
fn new_pair() -> Model {
    let folder = root().join("testdata/parity/sentence_encoders/bert/checkpoint");
    let tokenizer = Model::open(&folder).unwrap().into_parts().1.tokenizer.unwrap();
    let text = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: tokenizer.vocabulary_size(),
            max_tokens: 22,
            positions: true,
            types: 0,
        },
        input_norm: false,
        width: 32,
        layers: 2,
        attention: AttentionRule::plain(4),
        mlp: MlpRule {
            width: 52,
            activation: Activation::Gelu,
            gated: false,
            up_bias: true,
            down_bias: true,
            inner_norm: false,
        },
        norm: NormRule { placement: NormPlacement::Pre, eps: 1e-5, bias: true, first: true },
        layer_scale: false,
        output_norm: OutputNorm::Tokens,
        pooling: Pooling::Mean,
        head: Vec::new(),
        normalize: true,
    }
    .projected(20);
    let image = ImageSpec::MobileNet(MobileNetSpec::v1(0.0625, 41, Some(20)));
    let contract = ImageContract::inception(41);
    let mut text_tower = TextTower::build(&text, &NameMap::fresh(), Seed(1)).unwrap();
    let mut image_tower = ImageTower::build(&image, &contract, &NameMap::fresh(), Seed(2)).unwrap();
    stirred(&mut text_tower);
    stirred(&mut image_tower);
    let text_contract =
        TextContract { max_tokens: 20, padded: false, bare: None, prompts: BTreeMap::new() };
    let spec = ModelSpec {
        text: Some(text),
        image: Some(image),
        contract: InputContract { text: Some(text_contract), image: Some(contract) },
        log_scale: 2.5,
        score_bias: 0.0,
        matryoshka: Matryoshka::default(),
        card: Card::default(),
    };
    let parts = ModelParts {
        text: Some(text_tower),
        image: Some(image_tower),
        tokenizer: Some(tokenizer),
        origins: Vec::new(),
    };
    Model::from_parts(spec, parts).unwrap()
}

/// Files of a folder and the folders in it, but the manifest.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let inner = files(&path).into_iter();
            all.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if name != conjoin_core::MANIFEST_FILE {
            all.insert(name, fs_err::read(path).unwrap());
        }
    }
    all
}

/// What is checked in was written by us, and the library gave our vectors for it. With
/// `CONJOIN_WRITE_EXPORTS` set, writes what `make.py` opens.
#[track_caller]
fn agrees_with_the_library(model: &Model, target: ExportTarget, case: &str) {
    let case = root().join("testdata/parity/export").join(case);
    let dir = tempfile::tempdir().unwrap();
    let fresh = dir.path().join("model");
    export(model, target, &fresh);
    if std::env::var_os("CONJOIN_WRITE_EXPORTS").is_some() {
        for (name, bytes) in files(&fresh) {
            let path = case.join("model").join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, bytes).unwrap();
        }
        return;
    }
    let (found, expected) = (files(&fresh), files(&case.join("model")));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{name} is not what the library opened");
    }
    let golden = Weights::open(&case.join("golden.safetensors")).unwrap();
    let (texts, images) = vectors(model, &case);
    if let Some(texts) = texts {
        assert_embeddings(&texts, &golden.tensor("text.embedding").unwrap().1);
    }
    if !images.is_empty() {
        let images = Embeddings::new(model.width(), images.concat()).unwrap();
        assert_embeddings(&images, &golden.tensor("image.embedding").unwrap().1);
    }
}

#[test]
fn parity_export_of_an_encoder_with_a_new_head() {
    let model = encoder_with_head();
    agrees_with_the_library(&model, ExportTarget::SentenceTransformers, "encoder");
}

#[test]
fn parity_export_of_two_new_towers() {
    let model = new_pair();
    agrees_with_the_library(&model, ExportTarget::SentenceTransformers, "pair");
}

fn opened(case: &str) -> Model {
    Model::open(&root().join("testdata/parity").join(case).join("checkpoint")).unwrap()
}

#[test]
fn parity_export_of_clip_to_open_clip() {
    let model = opened("clip/quick_gelu");
    agrees_with_the_library(&model, ExportTarget::OpenClip, "to_open_clip");
}

#[test]
fn parity_export_of_open_clip_to_clip() {
    let model = opened("open_clip/vit");
    agrees_with_the_library(&model, ExportTarget::Hf, "to_clip");
}

#[test]
fn parity_export_of_clip_to_sentence_transformers() {
    let model = opened("clip/gelu");
    agrees_with_the_library(&model, ExportTarget::SentenceTransformers, "to_modules");
}

#[test]
fn a_layout_and_back_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    for case in ["clip/quick_gelu", "open_clip/vit"] {
        let model = opened(case);
        let home = target(model.parts().origins[0].layout).unwrap();
        let away = if home == ExportTarget::Hf { ExportTarget::OpenClip } else { ExportTarget::Hf };
        let [there, back] = ["there", "back"].map(|name| dir.path().join(name));
        export(&model, away, &there);
        let other = Model::open(&there).unwrap_or_else(|e| panic!("{case}: {}", e.kind));
        let (text, image) = (other.parts().text.as_ref(), other.parts().image.as_ref());
        let values = |t: &[conjoin_core::Parameter]| -> Vec<_> {
            t.iter().map(|p| (p.name.clone(), p.value.to_vec())).collect()
        };
        let parts = model.parts();
        let (old_text, old_image) = (parts.text.as_ref(), parts.image.as_ref());
        assert_eq!(values(text.unwrap().parameters()), values(old_text.unwrap().parameters()));
        assert_eq!(values(image.unwrap().parameters()), values(old_image.unwrap().parameters()));
        export(&other, home, &back);
        let again = Model::open(&back).unwrap_or_else(|e| panic!("{case}: {}", e.kind));
        let folder = root().join("testdata/parity").join(case);
        assert_eq!(vectors(&again, &folder).0, vectors(&model, &folder).0, "{case}");
    }
}

#[test]
fn what_a_target_cannot_say_is_an_error_that_names_those_that_can() {
    let error = Export::of(&new_pair(), ExportTarget::OpenClip).unwrap_err().to_string();
    assert_eq!(
        error,
        "open_clip cannot say a text and an image transformer: another kind of model; targets that \
         can say all of this model: hf and sentence-transformers"
    );
}

#[test]
fn a_model_written_back_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    for case in cases() {
        let checkpoint = case.join("checkpoint");
        let model = match Model::open(&checkpoint) {
            Ok(model) => model,
            Err(error) => {
                eprintln!("skipped: {}: {}", case.display(), error.kind);
                continue;
            }
        };
        // The origin outlives a checkpoint of ours.
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join(format!("theirs-{n}")));
        model.save(&ours, Manifest::new(CHECKPOINT_FORMAT, CHECKPOINT_VERSION)).unwrap();
        let kept = Model::open(&ours).unwrap();
        assert_eq!(kept.parts().origins, model.parts().origins);
        let Some(target) = target(model.parts().origins[0].layout) else { continue };
        export(&kept, target, &theirs);
        let again = Model::open(&theirs).unwrap_or_else(|e| panic!("{e}: {}", e.kind));
        assert_eq!(again.spec().text, model.spec().text, "{}", case.display());
        assert_eq!(again.spec().image, model.spec().image, "{}", case.display());
        assert_eq!(again.spec().contract, model.spec().contract, "{}", case.display());
        assert_eq!(again.spec().log_scale, model.spec().log_scale);
        assert_eq!(vectors(&again, &case), vectors(&model, &case), "{}", case.display());
        let file = if target == ExportTarget::OpenClip {
            "open_clip_model.safetensors"
        } else {
            "model.safetensors"
        };
        if checkpoint.join(file).exists() {
            let [old, new] = [&checkpoint, &theirs].map(|f| Weights::open(&f.join(file)).unwrap());
            assert_same_tensors(&old, &new, &case);
        }
        n += 1;
    }
    assert!(n >= 6, "only {n} cases were opened");
}
