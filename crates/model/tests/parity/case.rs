//! One case of a family: a checkpoint in its library's own layout, and what the library makes of its
//! inputs. The layout of a case is told in `testdata/parity/README.md`.
//!
//! Tolerances: every stage 1e-4 absolute and embeddings cosine 0.99999; ids equal; gradients 5e-4 of the
//! tensor's largest value.

use std::path::{Path, PathBuf};

use conjoin_core::{Embeddings, Gradients, Tower};
use conjoin_input::{ImageLimits, Pixels, decode};
use conjoin_model::{Model, NameMap, Weights, families::Plan, reference::Reference};
use serde::Deserialize;

use crate::{assert_close, assert_embeddings, root};

/// A case folder.
pub(crate) struct Case {
    folder: PathBuf,
    golden: Weights,
    inputs: Inputs,
}

#[derive(Deserialize)]
struct Inputs {
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    images: Vec<String>,
}

/// Checks every stage, with and without a tape, and the gradients if the case has some.
#[track_caller]
pub(crate) fn check(path: &str) {
    let case = Case::open(path);
    let model = case.model();
    case.check_stages(&model);
    let gradients = case.gradients();
    if !case.inputs.texts.is_empty() {
        case.check_texts(&model, gradients.as_ref());
    }
    if !case.inputs.images.is_empty() {
        case.check_images(&model, gradients.as_ref());
    }
}

impl Case {
    pub(crate) fn open(path: &str) -> Self {
        let folder = root().join("testdata/parity").join(path);
        let golden = Weights::open(&folder.join("golden.safetensors")).unwrap();
        let inputs = fs_err::read(folder.join("inputs.json")).unwrap();
        Self { golden, inputs: serde_json::from_slice(&inputs).unwrap(), folder }
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }

    pub(crate) fn model(&self) -> Model {
        Model::open(&self.checkpoint()).unwrap_or_else(|e| panic!("{e}: {}", e.kind))
    }

    pub(crate) fn texts(&self) -> Vec<&str> {
        self.inputs.texts.iter().map(String::as_str).collect()
    }

    pub(crate) fn image_files(&self) -> Vec<Vec<u8>> {
        let read = |file: &String| fs_err::read(self.folder.join(file)).unwrap();
        self.inputs.images.iter().map(read).collect()
    }

    /// Gradients in our names: the maps are linear.
    fn gradients(&self) -> Option<NameMap> {
        let file = self.folder.join("gradients.safetensors");
        let plan = file.exists().then(|| Plan::read(&self.checkpoint()).unwrap())?;
        Some(plan.map(&Weights::open(&file).unwrap()).unwrap())
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.golden.tensor(name).unwrap_or_else(|e| panic!("{e}")).1.to_vec()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<u32> {
        integers(&self.folder.join("golden.safetensors"), name)
    }

    fn check_stages(&self, model: &Model) {
        let stages = Reference::open(&self.folder).and_then(|reference| reference.compare(model));
        let stages = stages.unwrap_or_else(|e| panic!("{e}: {}", e.kind));
        assert!(stages.iter().any(|stage| stage.min_cosine.is_some()), "embeddings are compared");
        for stage in stages {
            assert!(stage.agrees(), "{}: {stage:?}", self.folder.display());
        }
    }

    fn check_texts(&self, model: &Model, gradients: Option<&NameMap>) {
        let texts = self.inputs.texts.iter();
        let ids: Vec<_> = texts.map(|text| model.tokenize(text).unwrap().ids).collect();
        let tower = model.parts().text.as_ref().unwrap();
        self.part("text").check(tower, &ids.iter().collect::<Vec<_>>(), gradients);
    }

    fn check_images(&self, model: &Model, gradients: Option<&NameMap>) {
        let contract = model.spec().contract.image.as_ref().unwrap();
        let limits = ImageLimits::default();
        let files = self.image_files();
        let pixels: Vec<Pixels> =
            files.iter().map(|bytes| contract.prepare(&decode(bytes, &limits).unwrap())).collect();
        let tower = model.parts().image.as_ref().unwrap();
        self.part("image").check(tower, &pixels.iter().collect::<Vec<_>>(), gradients);
    }

    fn part<'a>(&'a self, name: &'a str) -> Part<'a> {
        Part { case: self, name }
    }
}

/// One modality of a case.
struct Part<'a> {
    case: &'a Case,
    name: &'a str,
}

impl Part<'_> {
    fn f32(&self, name: &str) -> Vec<f32> {
        self.case.f32(&format!("{}.{name}", self.name))
    }

    fn check<T: Tower>(&self, tower: &T, inputs: &[&T::Input], gradients: Option<&NameMap>) {
        let expected = self.f32("embedding");
        let all = tower.embed(inputs).unwrap();
        assert_embeddings(&all, &expected);
        for (row, input) in all.rows().zip(inputs) {
            assert_close("alone", tower.embed(&[input]).unwrap().values(), row, 1e-6);
        }
        let (recorded, recording) = tower.record(inputs).unwrap();
        assert_embeddings(&recorded, &expected);
        if let Some(expected) = gradients {
            let dy = Embeddings::new(tower.width(), self.f32("dy")).unwrap();
            let mut found = Gradients::zeros(tower.parameters());
            tower.backward(recording, &dy, &mut found);
            self.check_gradients(tower, &found, expected);
        }
    }

    fn check_gradients<T: Tower>(&self, tower: &T, found: &Gradients, expected: &NameMap) {
        for (parameter, found) in tower.parameters().iter().zip(found.iter()) {
            let (_, expected) = expected
                .get(&parameter.name)
                .unwrap_or_else(|| panic!("the case has no gradient of `{}`", parameter.name));
            let largest = expected.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
            let mut expected = expected.to_vec();
            self.forgive_padding(&parameter.name, &parameter.shape, found, &mut expected);
            assert_close(&parameter.name, found, &expected, 5e-4 * largest);
        }
    }

    /// PyTorch never trains the row of an embedding table that is told to be padding. We never pad, so
    /// for us that id is a token like any other; where its gradient is zero there, ours is taken.
    fn forgive_padding(&self, name: &str, shape: &[usize], found: &[f32], expected: &mut [f32]) {
        if !name.ends_with("tokens.weight") {
            return;
        }
        let width = shape[1];
        for (expected, found) in expected.chunks_mut(width).zip(found.chunks(width)).take(2) {
            if expected.iter().all(|g| *g == 0.0) {
                expected.copy_from_slice(found);
            }
        }
    }
}

fn integers(path: &Path, name: &str) -> Vec<u32> {
    let bytes = fs_err::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(name).unwrap_or_else(|_| panic!("{name}")).data().to_vec();
    data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
}
