//! A model against stored outputs of the library it comes from: every stage, with and without a tape.
//!
//! In:  a [`Model`], and a folder with `inputs.json` and `golden.safetensors` (the layout is told in
//! `testdata/parity/README.md`). Out: the largest error of every stage.

use std::path::{Path, PathBuf};

use conjoin_core::{EmbedError, Embedder, Parameter, Task, Tower, max_sim};
use conjoin_engine::{Exec, Tensor, Workspace};
use conjoin_input::{ImageLimits, Pixels, decode};
use serde::{Deserialize, Serialize};

use crate::{
    CrossEncoder, ImageTower, LateInteraction, Model, ModelError, ModelErrorKind, Sequence,
    SequenceTower, TextTower, Weights, checkpoint::read_json,
};

/// The largest absolute error of a stage that counts as equal.
pub const MAX_ERROR: f32 = 1e-4;
/// The smallest cosine of embeddings that counts as equal.
pub const MIN_COSINE: f32 = 0.99999;

const INPUTS: &str = "inputs.json";
const GOLDEN: &str = "golden.safetensors";

/// How a pass was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// Keeping nothing.
    Inferring,
    /// Recording a tape, as training does.
    Recording,
}

impl Executor {
    pub(crate) fn begin<'p>(
        self,
        parameters: &'p [Parameter],
        workspace: &'p Workspace,
    ) -> Exec<'p> {
        match self {
            Self::Inferring => Exec::inferring(parameters, workspace),
            Self::Recording => Exec::recording(parameters, workspace),
        }
    }
}

/// How far one stage is from the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageError {
    /// `text.hidden.3`, `image.embedding`, …
    pub stage: String,
    /// How it was computed.
    pub executor: Executor,
    /// The largest absolute difference of a number; of ids, how many differ.
    pub max_error: f32,
    /// Of embeddings: the smallest cosine between ours and theirs.
    pub min_cosine: Option<f32>,
}

impl StageError {
    /// Whether the stage counts as equal.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.max_error <= MAX_ERROR && self.min_cosine.is_none_or(|cosine| cosine >= MIN_COSINE)
    }
}

/// What was put in; each kind of model has its own.
#[derive(Deserialize)]
struct Inputs {
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    images: Vec<String>,
    /// Query and document, for cross-encoders.
    #[serde(default)]
    pairs: Vec<(String, String)>,
    /// For late interaction.
    #[serde(default)]
    queries: Vec<String>,
    #[serde(default)]
    documents: Vec<String>,
}

/// Stored outputs of a reference library.
pub struct Reference {
    folder: PathBuf,
    inputs: Inputs,
    golden: Weights,
}

impl Reference {
    /// Finds references in a model's folder, or in the one above it.
    ///
    /// # Errors
    /// When there are some that cannot be read.
    pub fn find(model: &Path) -> Result<Option<Self>, ModelError> {
        let folders = [Some(model), model.parent()].into_iter().flatten();
        let mut there = folders.filter(|f| f.join(INPUTS).exists() && f.join(GOLDEN).exists());
        there.next().map(Self::open).transpose()
    }

    /// Opens a folder of references.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let open = || {
            let inputs = read_json(&folder.join(INPUTS))?;
            let golden = Weights::open(&folder.join(GOLDEN))?;
            Ok(Self { folder: folder.to_path_buf(), inputs, golden })
        };
        open().map_err(|kind: ModelErrorKind| kind.at(folder.display().to_string()))
    }

    /// Compares a model with the references, stage by stage.
    ///
    /// # Errors
    /// When an input cannot be read, or the references lack a stage.
    pub fn compare(&self, model: &Model) -> Result<Vec<StageError>, ModelError> {
        self.stages(model).map_err(|kind| kind.at(self.folder.display().to_string()))
    }

    /// Compares a cross-encoder with the references: layers, logits, scores.
    ///
    /// # Errors
    /// As [`Reference::compare`].
    pub fn compare_pairs(&self, model: &CrossEncoder) -> Result<Vec<StageError>, ModelError> {
        self.pairs(model).map_err(|kind| kind.at(self.folder.display().to_string()))
    }

    /// Compares a model of late interaction with the references: layers, token vectors, scores.
    ///
    /// # Errors
    /// As [`Reference::compare`].
    pub fn compare_late(&self, model: &LateInteraction) -> Result<Vec<StageError>, ModelError> {
        self.late(model).map_err(|kind| kind.at(self.folder.display().to_string()))
    }

    fn pairs(&self, model: &CrossEncoder) -> Result<Vec<StageError>, ModelErrorKind> {
        let mut errors = Vec::new();
        let pairs: Vec<(&str, &str)> =
            self.inputs.pairs.iter().map(|(q, d)| (q.as_str(), d.as_str())).collect();
        let inputs: Vec<Sequence> = pairs
            .iter()
            .map(|(q, d)| Ok(model.sequence(model.tokenize(q, d)?)))
            .collect::<Result<_, EmbedError>>()?;
        let inputs: Vec<&Sequence> = inputs.iter().collect();
        self.sequences("pair", "logits", model.tower(), &inputs, &mut errors)?;
        let mut part = self.part("pair", Executor::Inferring, &mut errors);
        part.compare("scores", model.predict(&pairs)?.0.values());
        part.end()?;
        Ok(errors)
    }

    fn late(&self, model: &LateInteraction) -> Result<Vec<StageError>, ModelErrorKind> {
        let mut errors = Vec::new();
        let sides = [("query", &self.inputs.queries), ("document", &self.inputs.documents)];
        for (name, texts) in sides {
            let read = |text: &String| match name {
                "query" => model.query_sequence(text),
                _ => model.document_sequence(text),
            };
            let inputs: Vec<Sequence> =
                texts.iter().map(read).collect::<Result<_, EmbedError>>()?;
            let inputs: Vec<&Sequence> = inputs.iter().collect();
            self.sequences(name, "embedding", model.tower(), &inputs, &mut errors)?;
        }
        let [q, d] = sides.map(|(_, texts)| texts.iter().map(String::as_str).collect::<Vec<_>>());
        let (q, d) = (model.embed_queries(&q)?, model.embed_documents(&d)?);
        let scores: Vec<f32> =
            q.iter().flat_map(|q| d.iter().map(|d| max_sim(&q.vectors, &d.vectors))).collect();
        let (_, expected) = self.golden.tensor("scores")?;
        errors.push(StageError {
            stage: "scores".to_owned(),
            executor: Executor::Inferring,
            max_error: largest_difference(&scores, &expected),
            min_cosine: None,
        });
        Ok(errors)
    }

    /// The layers and the output of a tower over sequences, by both executors.
    fn sequences(
        &self,
        name: &'static str,
        output: &str,
        tower: &SequenceTower,
        inputs: &[&Sequence],
        errors: &mut Vec<StageError>,
    ) -> Result<(), ModelErrorKind> {
        let mut part = self.part(name, Executor::Inferring, errors);
        tower.observe(inputs, &mut |stage: &str, value: &Tensor| {
            part.compare(stage, value.values())
        })?;
        part.compare(output, tower.embed(inputs)?.values());
        part.end()?;
        let mut part = self.part(name, Executor::Recording, errors);
        part.compare(output, tower.record(inputs)?.0.values());
        part.end()
    }

    fn part<'a>(
        &'a self,
        name: &'static str,
        executor: Executor,
        errors: &'a mut Vec<StageError>,
    ) -> Part<'a> {
        Part { reference: self, name, executor, errors, missing: None }
    }

    fn stages(&self, model: &Model) -> Result<Vec<StageError>, ModelErrorKind> {
        let mut errors = Vec::new();
        if let (Some(tower), false) = (&model.parts().text, self.inputs.texts.is_empty()) {
            self.texts(model, tower, &mut errors)?;
        }
        if let (Some(tower), false) = (&model.parts().image, self.inputs.images.is_empty()) {
            self.images(model, tower, &mut errors)?;
        }
        Ok(errors)
    }

    fn texts(
        &self,
        model: &Model,
        tower: &TextTower,
        errors: &mut Vec<StageError>,
    ) -> Result<(), ModelErrorKind> {
        let texts: Vec<&str> = self.inputs.texts.iter().map(String::as_str).collect();
        let ids: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| Ok(model.tokenize(text)?.ids))
            .collect::<Result<_, EmbedError>>()?;
        let expected = self.golden.indices("text.ids")?;
        let found: Vec<usize> = ids.iter().flatten().map(|id| *id as usize).collect();
        let wrong = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
        let wrong = wrong + expected.len().abs_diff(found.len());
        errors.push(StageError {
            stage: "text.ids".to_owned(),
            executor: Executor::Inferring,
            max_error: wrong as f32,
            min_cosine: None,
        });
        if wrong > 0 {
            // Other ids give other numbers; the further stages would tell nothing.
            return Ok(());
        }
        let inputs: Vec<&Vec<u32>> = ids.iter().collect();
        for executor in [Executor::Inferring, Executor::Recording] {
            let mut part = self.part("text", executor, errors);
            tower.observe(&inputs, executor, &mut |name: &str, value: &Tensor| {
                part.hear(name, value)
            })?;
            part.end()?;
        }
        let mut part = self.part("text", Executor::Inferring, errors);
        let found = model.embed_texts(&texts, &Task::Plain)?.vectors;
        part.embedding(found.values(), found.width());
        part.end()
    }

    fn images(
        &self,
        model: &Model,
        tower: &ImageTower,
        errors: &mut Vec<StageError>,
    ) -> Result<(), ModelErrorKind> {
        let Some(contract) = &model.spec().contract.image else { return Ok(()) };
        let limits = ImageLimits::default();
        let mut pixels: Vec<Pixels> = Vec::new();
        let mut values = Vec::new();
        for file in &self.inputs.images {
            let bytes = fs_err::read(self.folder.join(file))?;
            let prepared = contract.prepare(&decode(&bytes, &limits)?);
            let start = values.len();
            values.resize(start + prepared.data().len(), 0.0);
            contract.normalize(&prepared, &mut values[start..]);
            pixels.push(prepared);
        }
        let inputs: Vec<&Pixels> = pixels.iter().collect();
        for executor in [Executor::Inferring, Executor::Recording] {
            let mut part = self.part("image", executor, errors);
            if executor == Executor::Inferring {
                part.compare("pixels", &values);
            }
            tower.observe(&inputs, executor, &mut |name: &str, value: &Tensor| {
                part.hear(name, value)
            })?;
            part.end()?;
        }
        let mut part = self.part("image", Executor::Inferring, errors);
        let found = tower.embed(&inputs)?;
        part.embedding(found.values(), found.width());
        part.end()
    }
}

/// One modality by one executor.
struct Part<'a> {
    reference: &'a Reference,
    name: &'static str,
    executor: Executor,
    errors: &'a mut Vec<StageError>,
    missing: Option<ModelErrorKind>,
}

impl Part<'_> {
    fn hear(&mut self, name: &str, value: &Tensor) {
        if name == "embedding" {
            self.embedding(value.values(), value.cols());
        } else {
            self.compare(name, value.values());
        }
    }

    fn compare(&mut self, name: &str, found: &[f32]) {
        let stage = format!("{}.{name}", self.name);
        match self.reference.golden.tensor(&stage) {
            Err(missing) => self.missing = Some(missing),
            Ok((_, expected)) => {
                let max_error = largest_difference(found, &expected);
                let executor = self.executor;
                self.errors.push(StageError { stage, executor, max_error, min_cosine: None });
            }
        }
    }

    fn embedding(&mut self, found: &[f32], width: usize) {
        self.compare("embedding", found);
        let Some(last) = self.errors.last_mut().filter(|_| self.missing.is_none()) else { return };
        if let Ok((_, expected)) = self.reference.golden.tensor(&last.stage) {
            let rows = found.chunks(width).zip(expected.chunks(width));
            last.min_cosine = Some(rows.map(|(a, b)| cosine(a, b)).fold(1.0, f32::min));
        }
    }

    fn end(self) -> Result<(), ModelErrorKind> {
        self.missing.map_or(Ok(()), Err)
    }
}

/// Infinite where the sizes differ.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    // A vector of zeros has no direction; two of them agree.
    if norms == 0.0 { 1.0 } else { (dot(a, b) / norms) as f32 }
}
