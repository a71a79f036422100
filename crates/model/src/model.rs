//! A loaded model: towers, tokeniser, input contract; what the rest of the project calls an embedder.

use std::{
    fmt,
    path::Path,
    sync::{LazyLock, OnceLock},
};

use conjoin_core::{EmbedError, Embedder, Embeddings, Modality, Tower, hash_bytes};
use conjoin_input::{ImageLimits, InputContract, Pixels, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    EncoderSpec, ImageSpec, ImageTower, Matryoshka, ModelError, ModelErrorKind, TextTower, families,
};

/// Everything about a model but its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The text tower, if there is one.
    pub text: Option<EncoderSpec>,
    /// The image tower, if there is one.
    pub image: Option<ImageSpec>,
    /// What the towers expect of their inputs.
    pub contract: InputContract,
    /// The learned temperature: similarities were trained as `exp(log_scale) · cosine + score_bias`.
    pub log_scale: f32,
    /// What was added to them (SigLIP's bias; 0 elsewhere).
    pub score_bias: f32,
    /// Which widths its vectors may be cut to.
    #[serde(default, skip_serializing_if = "Matryoshka::is_none")]
    pub matryoshka: Matryoshka,
    /// Where the model comes from.
    pub card: Card,
}

/// Where a model comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// The licence of its weights, where known.
    pub licence: Option<String>,
    /// The models it started from.
    pub sources: Vec<String>,
}

/// The parts of a model that hold numbers or a vocabulary.
#[derive(Debug, Default)]
pub struct ModelParts {
    /// The text tower.
    pub text: Option<TextTower>,
    /// The image tower.
    pub image: Option<ImageTower>,
    /// The tokeniser; needed by a text tower.
    pub tokenizer: Option<Tokenizer>,
}

/// Computes a fingerprint, when somebody asks for it: it may have to read all weights.
pub(crate) type Fingerprint = Box<dyn FnOnce() -> String + Send + Sync>;

/// A loaded model.
pub struct Model {
    spec: ModelSpec,
    parts: ModelParts,
    /// Of the towers and their rules.
    fingerprint: LazyLock<String, Fingerprint>,
    /// Of vectors that are cut.
    cut_fingerprint: OnceLock<String>,
    modalities: Vec<Modality>,
    /// Width of the towers' vectors.
    whole: usize,
    /// Width of what is given.
    width: usize,
    limits: ImageLimits,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Model {
    /// Joins the parts.
    ///
    /// # Errors
    /// When there is no tower, the towers have different widths, or parts and contract do not fit.
    pub fn new(
        spec: ModelSpec,
        parts: ModelParts,
        fingerprint: String,
    ) -> Result<Self, ModelErrorKind> {
        Self::with_fingerprint(spec, parts, Box::new(move || fingerprint))
    }

    pub(crate) fn with_fingerprint(
        spec: ModelSpec,
        parts: ModelParts,
        fingerprint: Fingerprint,
    ) -> Result<Self, ModelErrorKind> {
        spec.contract.check()?;
        let spec_error = |key, found: &str, expected: &str| ModelErrorKind::Spec {
            key,
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        let text_is_whole = parts.text.is_some() == spec.contract.text.is_some()
            && parts.text.is_some() == parts.tokenizer.is_some();
        if !text_is_whole {
            let expected = "a tower, a contract and a tokeniser, or none of them";
            return Err(spec_error("text", "a part of the text side", expected));
        }
        if parts.image.is_some() != spec.contract.image.is_some() {
            return Err(spec_error("image", "one alone", "a tower and a contract, or none"));
        }
        let (text, image) =
            (parts.text.as_ref().map(Tower::width), parts.image.as_ref().map(Tower::width));
        let whole = match (text, image) {
            (Some(text), Some(image)) if text != image => {
                return Err(ModelErrorKind::Widths { text, image });
            }
            (Some(width), _) | (None, Some(width)) => width,
            (None, None) => return Err(spec_error("text, image", "no tower", "at least one")),
        };
        let modalities = [(Modality::Text, text), (Modality::Image, image)];
        let modalities = modalities.into_iter().filter_map(|(m, w)| w.map(|_| m)).collect();
        let limits = ImageLimits::default();
        let fingerprint = LazyLock::new(fingerprint);
        let (cut_fingerprint, width) = (OnceLock::new(), spec.matryoshka.checked(whole)?);
        Ok(Self { spec, parts, fingerprint, cut_fingerprint, modalities, whole, width, limits })
    }

    /// The model whose vectors have `width` numbers: the first ones, scaled to unit length.
    ///
    /// # Errors
    /// When the model was not trained for this width.
    pub fn cut_to(mut self, width: usize) -> Result<Self, ModelErrorKind> {
        self.spec.matryoshka.width = (width != self.whole).then_some(width);
        self.width = self.spec.matryoshka.checked(self.whole)?;
        self.cut_fingerprint = OnceLock::new();
        Ok(self)
    }

    /// Identifies the towers and their rules, whatever their vectors are cut to.
    pub(crate) fn whole_fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Opens a model folder of any known layout.
    ///
    /// # Errors
    /// When the layout is unknown, or a file is missing, damaged or says something this build does
    /// not implement.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        Self::open_with(folder, &families::Options::default())
    }

    /// As [`Model::open`], with choices that a folder of somebody else's leaves open.
    ///
    /// # Errors
    /// As there, and when the model has no such choice.
    pub fn open_with(folder: &Path, options: &families::Options) -> Result<Self, ModelError> {
        // A folder that is not there may be one whose writer died; opening it puts it back.
        if folder.join(conjoin_core::MANIFEST_FILE).exists() || !folder.exists() {
            return match options.adapter.clone() {
                None => Self::open_checkpoint(folder),
                Some(found) => {
                    Err(ModelErrorKind::NoAdapter { found }.at(folder.display().to_string()))
                }
            };
        }
        let plan = families::Plan::read_with(folder, options)?;
        plan.build().map_err(|kind| kind.at(folder.display().to_string()))
    }

    /// Everything about the model but its numbers.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The towers and the tokeniser.
    #[must_use]
    pub fn parts(&self) -> &ModelParts {
        &self.parts
    }

    /// Takes the model apart, for training.
    #[must_use]
    pub fn into_parts(self) -> (ModelSpec, ModelParts) {
        (self.spec, self.parts)
    }

    /// Token ids of a text by the contract, and how many there were before truncation.
    ///
    /// # Errors
    /// When there is no text tower or the tokeniser refuses the text.
    pub fn tokenize(&self, text: &str) -> Result<conjoin_input::Tokens, EmbedError> {
        let (Some(tokenizer), Some(contract)) = (&self.parts.tokenizer, &self.spec.contract.text)
        else {
            return Err(EmbedError::NoTower(Modality::Text));
        };
        contract.encode(tokenizer, text).map_err(|e| unreadable(Modality::Text, e))
    }

    fn prepare(&self, bytes: &[u8]) -> Result<Pixels, EmbedError> {
        let contract =
            self.spec.contract.image.as_ref().ok_or(EmbedError::NoTower(Modality::Image))?;
        contract.read(bytes, &self.limits).map_err(|e| unreadable(Modality::Image, e))
    }
}

fn unreadable(
    modality: Modality,
    source: impl std::error::Error + Send + Sync + 'static,
) -> EmbedError {
    EmbedError::Input { modality, source: Box::new(source) }
}

/// Texts are tokenised and pictures decoded this many at a time, so that memory stays bounded.
const TEXTS_PER_BLOCK: usize = 1024;
const IMAGES_PER_BLOCK: usize = 64;

impl Embedder for Model {
    fn fingerprint(&self) -> &str {
        if self.width == self.whole {
            return &self.fingerprint;
        }
        let cut = || hash_bytes(format!("{}{}", *self.fingerprint, self.width).as_bytes());
        self.cut_fingerprint.get_or_init(cut)
    }

    fn width(&self) -> usize {
        self.width
    }

    fn widths(&self) -> Vec<usize> {
        let widths = self.spec.matryoshka.widths.iter().copied();
        let mut widths: Vec<usize> = widths.filter(|w| *w < self.width).collect();
        widths.push(self.width);
        widths
    }

    fn modalities(&self) -> &[Modality] {
        &self.modalities
    }

    fn embed_texts(&self, texts: &[&str]) -> Result<Embeddings, EmbedError> {
        let tower = self.parts.text.as_ref().ok_or(EmbedError::NoTower(Modality::Text))?;
        let mut all = Embeddings::zeros(0, self.width);
        for block in texts.chunks(TEXTS_PER_BLOCK) {
            let ids: Vec<Vec<u32>> = block
                .par_iter()
                .map(|text| Ok(self.tokenize(text)?.ids))
                .collect::<Result<_, EmbedError>>()?;
            all.append(&tower.embed(&ids.iter().collect::<Vec<_>>())?.cut(self.width));
        }
        Ok(all)
    }

    fn embed_images(
        &self,
        images: &[&[u8]],
    ) -> Result<Vec<Result<Vec<f32>, EmbedError>>, EmbedError> {
        let tower = self.parts.image.as_ref().ok_or(EmbedError::NoTower(Modality::Image))?;
        let mut all = Vec::with_capacity(images.len());
        for block in images.chunks(IMAGES_PER_BLOCK) {
            let prepared: Vec<_> = block.par_iter().map(|bytes| self.prepare(bytes)).collect();
            let good: Vec<&Pixels> = prepared.iter().filter_map(|p| p.as_ref().ok()).collect();
            let embeddings = tower.embed(&good)?.cut(self.width);
            let mut rows = embeddings.rows();
            all.extend(
                prepared
                    .into_iter()
                    .map(|p| p.map(|_| rows.next().expect("a row per readable picture").to_vec())),
            );
        }
        Ok(all)
    }

    fn max_tokens(&self) -> Option<usize> {
        self.spec.contract.text.as_ref().map(|text| text.max_tokens)
    }

    fn count_tokens(&self, text: &str) -> Result<usize, EmbedError> {
        Ok(self.tokenize(text)?.total)
    }
}
