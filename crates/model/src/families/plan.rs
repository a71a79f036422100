//! What a folder says of its model: everything but the numbers.
//!
//! In:  filled by a family. Out: a [`Model`], or a [`NameMap`] of other tensors under the same names
//! (gradients of a reference, say).

use std::path::Path;

use conjoin_core::hash_bytes;
use conjoin_input::{InputContract, Tokenizer};

use crate::{
    Card, EncoderSpec, ImageSpec, ImageTower, Matryoshka, Model, ModelError, ModelErrorKind,
    ModelParts, ModelSpec, NameMap, Source, TextTower, Weights,
    families::Reading,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

/// What a checkpoint leaves to whoever opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The task whose adapter is merged into the weights. None: the checkpoint's own choice.
    pub adapter: Option<String>,
}

/// A model that is recognised but not loaded.
#[derive(Debug)]
pub struct Plan {
    /// The text tower.
    pub text: Option<EncoderSpec>,
    /// The image tower.
    pub image: Option<ImageSpec>,
    /// What the towers expect.
    pub contract: InputContract,
    /// The tokeniser.
    pub tokenizer: Option<Tokenizer>,
    /// Our names (`text.…`, `image.…`) to the file's.
    pub names: Vec<(String, Source)>,
    /// How the names of tensors begin that embeddings do not use.
    pub unused: Vec<String>,
    /// Similarities were trained as `exp(log_scale) · cosine + score_bias`.
    pub log_scale: f32,
    /// See `log_scale`.
    pub score_bias: f32,
    /// Which widths its vectors may be cut to.
    pub matryoshka: Matryoshka,
    /// Where the model comes from.
    pub card: Card,
    /// The weights; only their headers are read.
    pub weights: Weights,
    /// How all this was told.
    pub reading: Reading,
}

impl Plan {
    /// Recognises a folder.
    ///
    /// # Errors
    /// When its layout is unknown, or says something this build does not implement.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        Self::read_with(folder, &Options::default())
    }

    /// As [`Plan::read`], with choices that the folder leaves open.
    ///
    /// # Errors
    /// As there, and when the model has no such choice.
    pub fn read_with(folder: &Path, options: &Options) -> Result<Self, ModelError> {
        super::plan(folder, options).map_err(|kind| kind.at(folder.display().to_string()))
    }

    /// Tensors for our parameters from any weights under this plan's names.
    ///
    /// # Errors
    /// When a tensor is missing, unreadable or unknown.
    pub fn map(&self, weights: &Weights) -> Result<NameMap, ModelErrorKind> {
        NameMap::read(weights, &self.names, &self.unused)
    }

    /// Loads the model.
    ///
    /// # Errors
    /// When the weights do not fit the specs.
    pub fn build(self) -> Result<Model, ModelErrorKind> {
        let hashing = self.weights.hash_beside();
        let map = self.map(&self.weights)?;
        let mut parts = ModelParts { tokenizer: self.tokenizer, ..ModelParts::default() };
        if let Some(text) = &self.text {
            let map = map.part(TEXT_PREFIX);
            parts.text = Some(TextTower::open(text, &map)?);
        }
        if let (Some(image), Some(contract)) = (&self.image, &self.contract.image) {
            let map = map.part(IMAGE_PREFIX);
            parts.image = Some(ImageTower::open(image, contract, &map)?);
        }
        let spec = ModelSpec {
            text: self.text,
            image: self.image,
            contract: self.contract,
            log_scale: self.log_scale,
            score_bias: self.score_bias,
            matryoshka: self.matryoshka,
            card: self.card,
        };
        let mut rules = spec.rules()?;
        // The same file gives other numbers for each of its adapters.
        let adapted = self.names.iter().filter(|(_, s)| matches!(s, Source::Adapted { .. }));
        rules.extend(adapted.flat_map(|(_, source)| format!("{source:?}").into_bytes()));
        let tokenizer = parts.tokenizer.clone();
        let fingerprint = move || {
            let tokenizer = tokenizer.map(|t| hash_bytes(&t.to_json())).unwrap_or_default();
            let parts = [hash_bytes(&rules), tokenizer, hashing.wait()];
            hash_bytes(parts.concat().as_bytes())
        };
        Model::with_fingerprint(spec, parts, Box::new(fingerprint))
    }
}
