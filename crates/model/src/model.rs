//! A loaded model: towers, tokeniser, input contract; what the rest of the project calls an embedder.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{LazyLock, OnceLock},
};

use conjoin_core::{
    EmbedError, Embedder, Embeddings, Modality, Stop, Task, TextEmbeddings, TokenUse, Tower,
    hash_bytes,
};
use conjoin_engine::Precision;
use conjoin_input::{
    BareTokens, ImageLimits, InputContract, MAX_TEXT_BYTES, Pixels, TextContract, Tokenizer,
    Tokens, decode,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    CalibrationError, EncoderSpec, ImageSpec, ImageTower, LongText, Matryoshka, ModelCalibration,
    ModelError, ModelErrorKind, ModelPrecision, Origin, Pooling, SAMPLE_SIZE, Sample, TextTower,
    Weights,
    calibration::{Precise, calibrate, sampled},
    export::is_export,
    families,
    long_text::{Parts, Window, weighted_mean},
    overlap::overlapped,
    tiles,
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
    /// The folders of somebody else's that the towers were read from, to write them back.
    pub origins: Vec<Origin>,
}

/// Computes a fingerprint, when somebody asks for it: it may have to read all weights.
pub(crate) type Fingerprint = Box<dyn FnOnce() -> String + Send + Sync>;

/// That of a model that ranks: of its rules, its tokeniser and its files.
pub(crate) fn fingerprint_of(
    rules: &impl Serialize,
    tokenizer: &Tokenizer,
    weights: Weights,
) -> Result<Fingerprint, ModelErrorKind> {
    let file = "rules".to_owned();
    let rules =
        serde_json::to_vec(rules).map_err(|source| ModelErrorKind::Json { file, source })?;
    let tokenizer = tokenizer.clone();
    Ok(Box::new(move || {
        let tokenizer = hash_bytes(&tokenizer.to_json());
        hash_bytes([hash_bytes(&rules), tokenizer, weights.hash()].concat().as_bytes())
    }))
}

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
    long_text: LongText,
    /// The most pieces per side a large picture is cut into; 1: none.
    tiles: usize,
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
        check_limits(&spec, &parts)?;
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
        Ok(Self {
            spec,
            parts,
            fingerprint,
            cut_fingerprint,
            modalities,
            whole,
            width,
            limits,
            long_text: LongText::Cut,
            tiles: 1,
        })
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
    #[must_use]
    pub fn whole_fingerprint(&self) -> &str {
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

    /// Whether a folder is opened as a checkpoint of ours. One that is not there may be one whose
    /// writer died; opening it puts it back.
    #[must_use]
    pub fn is_checkpoint(folder: &Path) -> bool {
        let is_ours = folder.join(conjoin_core::MANIFEST_FILE).exists() && !is_export(folder);
        is_ours || !folder.exists()
    }

    /// As [`Model::open`], with choices that a folder of somebody else's leaves open.
    ///
    /// # Errors
    /// As there, and when the model has no such choice.
    pub fn open_with(folder: &Path, options: &families::Options) -> Result<Self, ModelError> {
        if Self::is_checkpoint(folder) {
            return match options.adapter.clone() {
                None => Self::open_checkpoint(folder),
                Some(found) => {
                    Err(ModelErrorKind::NoAdapter { found }.at(folder.display().to_string()))
                }
            };
        }
        let plan = families::Plan::read_with(folder, options)?;
        let at = |kind: ModelErrorKind| kind.at(folder.display().to_string());
        let origin = Origin::of(folder, &plan).map_err(at)?;
        let mut model = plan.build().map_err(at)?;
        model.parts.origins.push(origin);
        Ok(model)
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

    /// The model with other prompts; its vectors of tasks change, so its fingerprint does.
    ///
    /// # Errors
    /// When the model reads no texts.
    pub fn with_prompts(
        mut self,
        prompts: BTreeMap<String, String>,
    ) -> Result<Self, ModelErrorKind> {
        match &mut self.spec.contract.text {
            Some(text) => text.prompts = prompts,
            None => {
                return Err(ModelErrorKind::Spec {
                    key: "prompts",
                    found: "some".to_owned(),
                    expected: "none, as the model reads no texts".to_owned(),
                });
            }
        }
        let (spec, parts) = self.into_parts();
        Self::from_parts(spec, parts)
    }

    /// The model reading long texts in another way than cutting them. Texts that fit get the same
    /// vectors, so the fingerprint stays.
    ///
    /// # Errors
    /// When the model does not pool by the mean and late chunking is asked for.
    pub fn with_long_texts(mut self, long_text: LongText) -> Result<Self, ModelErrorKind> {
        let pooling = self.spec.text.as_ref().map(|text| text.pooling);
        if long_text == LongText::Late && pooling != Some(Pooling::Mean) {
            return Err(ModelErrorKind::Spec {
                key: "text.pooling",
                found: pooling.map_or("no text tower".to_owned(), |p| format!("{p:?}")),
                expected: "the mean of all tokens, for late chunking".to_owned(),
            });
        }
        match self.spec.contract.text.as_mut().filter(|text| text.bare.is_some()) {
            // A table reads a text of any length at once.
            Some(text) if long_text != LongText::Cut => {
                text.max_tokens = MAX_TEXT_BYTES;
                text.bare = text.bare.map(|bare| BareTokens { max_chars: None, ..bare });
            }
            Some(_) | None => self.long_text = long_text,
        }
        Ok(self)
    }

    /// The model computing its products in a precision. Vectors differ by little more than rounding, so
    /// the fingerprint stays.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        if let Some(tower) = &mut self.parts.text {
            tower.use_precision(&tower.usual(precision));
        }
        if let Some(tower) = &mut self.parts.image {
            tower.use_precision(&tower.usual(precision));
        }
        self
    }

    /// What [`Model::with_precision`] sets: products that are known to need it stay finer.
    #[must_use]
    pub fn usual_precision(&self, precision: Precision) -> ModelPrecision {
        ModelPrecision {
            text: self.parts.text.as_ref().map(|tower| tower.usual(precision)),
            image: self.parts.image.as_ref().map(|tower| tower.usual(precision)),
        }
    }

    /// As [`Model::with_precision`], tower by tower and with exceptions. A tower of which nothing is said
    /// keeps its precision.
    ///
    /// # Errors
    /// When an exception names no parameter.
    pub fn set_precision(&mut self, precision: &ModelPrecision) -> Result<(), ModelErrorKind> {
        if let (Some(tower), Some(precision)) = (&mut self.parts.text, &precision.text) {
            tower.set_precision(precision)?;
        }
        if let (Some(tower), Some(precision)) = (&mut self.parts.image, &precision.image) {
            tower.set_precision(precision)?;
        }
        Ok(())
    }

    /// Measures the precisions of each tower on a sample and leaves it in the fastest whose vectors are
    /// near enough to those of `f32`. A tower the sample has nothing for keeps its precision.
    ///
    /// # Errors
    /// When a text cannot be read, or it was asked to stop. Pictures that cannot be read are left out.
    pub fn calibrate(
        &mut self,
        sample: &Sample,
        stop: &Stop,
    ) -> Result<ModelCalibration, CalibrationError> {
        let (mut calibration, width) = (ModelCalibration::default(), self.width);
        if self.parts.text.is_some() && !sample.texts.is_empty() {
            let side = self.text_side()?;
            let texts: Vec<&str> =
                sample.texts.iter().take(SAMPLE_SIZE).map(String::as_str).collect();
            let tokens = side.tokenize_all(side.prompt(&sample.task)?, &texts)?;
            let ids = sampled(tokens.into_iter().map(|t| t.ids).collect(), Vec::len);
            if let Some(tower) = &mut self.parts.text {
                let ids: Vec<&Vec<u32>> = ids.iter().collect();
                calibration.text = Some(calibrate(tower, &ids, width, stop)?);
            }
        }
        if self.parts.image.is_some() {
            let files: Vec<_> = sample.images.iter().take(SAMPLE_SIZE).collect();
            let views = files.par_iter().filter_map(|bytes| self.prepare(bytes).ok());
            let views = sampled(views.flatten().collect(), |_| 0);
            let views: Vec<&Pixels> = views.iter().collect();
            if let (Some(tower), false) = (&mut self.parts.image, views.is_empty()) {
                calibration.image = Some(calibrate(tower, &views, width, stop)?);
            }
        }
        Ok(calibration)
    }

    /// How the products of its towers are computed.
    #[must_use]
    pub fn precision(&self) -> ModelPrecision {
        ModelPrecision {
            text: self.parts.text.as_ref().map(TextTower::precision),
            image: self.parts.image.as_ref().map(ImageTower::precision),
        }
    }

    /// The model looking at large pictures in up to `tiles` × `tiles` pieces beside the whole.
    #[must_use]
    pub fn with_tiles(mut self, tiles: usize) -> Self {
        self.tiles = tiles.max(1);
        self
    }

    fn text_side(&self) -> Result<TextSide<'_>, EmbedError> {
        match (&self.parts.text, &self.parts.tokenizer, &self.spec.contract.text) {
            (Some(tower), Some(tokenizer), Some(contract)) => {
                Ok(TextSide { tower, tokenizer, contract, long_text: self.long_text })
            }
            _ => Err(EmbedError::NoTower(Modality::Text)),
        }
    }

    /// Token ids of a text without a task by the contract, and how many there were before truncation.
    ///
    /// # Errors
    /// When there is no text tower or the tokeniser refuses the text.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, EmbedError> {
        let side = self.text_side()?;
        side.tokenize(&format!("{}{text}", side.prompt(&Task::Plain)?))
    }

    /// The views of a picture, each of the model's size.
    fn prepare(&self, bytes: &[u8]) -> Result<Vec<Pixels>, EmbedError> {
        let contract =
            self.spec.contract.image.as_ref().ok_or(EmbedError::NoTower(Modality::Image))?;
        let pixels = decode(bytes, &self.limits).map_err(|e| unreadable(Modality::Image, e))?;
        let views = tiles::views(pixels, contract.size, self.tiles);
        Ok(views.iter().map(|view| contract.prepare(view)).collect())
    }
}

/// Checks the numbers that only the parts together can tell to be wrong.
fn check_limits(spec: &ModelSpec, parts: &ModelParts) -> Result<(), ModelErrorKind> {
    for (key, value) in [("log_scale", spec.log_scale), ("score_bias", spec.score_bias)] {
        if !value.is_finite() {
            let (found, expected) = (value.to_string(), "a finite number".to_owned());
            return Err(ModelErrorKind::Spec { key, found, expected });
        }
    }
    match (&spec.contract.text, &parts.text) {
        (Some(contract), Some(tower)) if contract.max_tokens > tower.max_tokens() => {
            Err(ModelErrorKind::Spec {
                key: "contract.text.max_tokens",
                found: contract.max_tokens.to_string(),
                expected: format!("at most the text tower's {}", tower.max_tokens()),
            })
        }
        _ => Ok(()),
    }
}

pub(crate) fn unreadable(
    modality: Modality,
    source: impl std::error::Error + Send + Sync + 'static,
) -> EmbedError {
    EmbedError::Input { modality, source: Box::new(source) }
}

/// Texts are tokenised and pictures decoded this many at a time while those before are embedded, so that
/// memory stays bounded.
const TEXTS_PER_BLOCK: usize = 1024;
const IMAGES_PER_BLOCK: usize = 32;

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

    fn embed_texts(&self, texts: &[&str], task: &Task) -> Result<TextEmbeddings, EmbedError> {
        let side = self.text_side()?;
        let prompt = side.prompt(task)?;
        let prepare = |texts| (texts, side.tokenize_all(prompt, texts));
        let blocks = overlapped(texts.chunks(TEXTS_PER_BLOCK), prepare, |(texts, tokens)| {
            let cut = side.embed_cut(&tokens?)?;
            match self.long_text {
                LongText::Cut => Ok(cut),
                LongText::Mean | LongText::Late => side.embed_whole(prompt, texts, cut),
            }
        })?;
        let mut all = TextEmbeddings {
            vectors: Embeddings::zeros(0, self.width),
            tokens: Vec::with_capacity(texts.len()),
        };
        for block in blocks {
            all.vectors.append(&block.vectors.cut(self.width));
            all.tokens.extend(block.tokens);
        }
        Ok(all)
    }

    fn embed_images(
        &self,
        images: &[&[u8]],
    ) -> Result<Vec<Result<Vec<f32>, EmbedError>>, EmbedError> {
        let tower = self.parts.image.as_ref().ok_or(EmbedError::NoTower(Modality::Image))?;
        let prepare = |block: &[&[u8]]| -> Vec<Result<Vec<Pixels>, EmbedError>> {
            block.par_iter().map(|bytes| self.prepare(bytes)).collect()
        };
        let blocks = overlapped(images.chunks(IMAGES_PER_BLOCK), prepare, |prepared| {
            let views: Vec<&Pixels> = prepared.iter().flatten().flatten().collect();
            let embeddings = tower.embed(&views)?.cut(self.width);
            let mut first = 0;
            let of_picture = prepared.into_iter().map(|views| {
                let n = views?.len();
                let of_picture = embeddings.select(&(first..first + n).collect::<Vec<_>>());
                first += n;
                Ok(match n {
                    1 => of_picture.into_values(),
                    _ => weighted_mean(&of_picture, &vec![1; n]),
                })
            });
            Ok::<Vec<_>, EmbedError>(of_picture.collect())
        })?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn tasks(&self) -> Vec<String> {
        let prompts = self.spec.contract.text.iter().flat_map(|text| text.prompts.keys());
        prompts.filter(|task| !task.is_empty()).cloned().collect()
    }

    fn max_tokens(&self) -> Option<usize> {
        self.spec.contract.text.as_ref().map(|text| text.max_tokens)
    }
}

/// What reading texts takes.
struct TextSide<'a> {
    tower: &'a TextTower,
    tokenizer: &'a Tokenizer,
    contract: &'a TextContract,
    long_text: LongText,
}

impl TextSide<'_> {
    fn tokenize(&self, text: &str) -> Result<Tokens, EmbedError> {
        self.contract.encode(self.tokenizer, text).map_err(|e| unreadable(Modality::Text, e))
    }

    fn prompt(&self, task: &Task) -> Result<&str, EmbedError> {
        self.contract.prompt(task).ok_or_else(|| {
            let names: Vec<&str> = self.contract.prompts.keys().map(String::as_str).collect();
            let known = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
            EmbedError::Task { found: task.name().to_owned(), known }
        })
    }

    fn tokenize_all(&self, prompt: &str, texts: &[&str]) -> Result<Vec<Tokens>, EmbedError> {
        let tokenize = |text: &&str| match prompt {
            "" => self.tokenize(text),
            _ => self.tokenize(&format!("{prompt}{text}")),
        };
        texts.par_iter().map(tokenize).collect()
    }

    fn embed_cut(&self, all: &[Tokens]) -> Result<TextEmbeddings, EmbedError> {
        let limit = self.contract.max_tokens;
        let tokens = all.iter().map(|t| TokenUse { used: t.total.min(limit), total: t.total });
        let ids: Vec<&Vec<u32>> = all.iter().map(|t| &t.ids).collect();
        Ok(TextEmbeddings { vectors: self.tower.embed(&ids)?, tokens: tokens.collect() })
    }

    /// `block` with the long ones among its texts read in windows.
    fn embed_whole(
        &self,
        prompt: &str,
        texts: &[&str],
        mut block: TextEmbeddings,
    ) -> Result<TextEmbeddings, EmbedError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for (i, row) in block.vectors.rows().enumerate() {
            if block.tokens[i].is_truncated() {
                vectors.extend(self.embed_long(prompt, texts[i])?);
                block.tokens[i].used = block.tokens[i].total;
            } else {
                vectors.extend_from_slice(row);
            }
        }
        block.vectors = Embeddings::new(self.tower.width(), vectors).expect("a row per text");
        Ok(block)
    }

    fn embed_long(&self, prompt: &str, text: &str) -> Result<Vec<f32>, EmbedError> {
        let whole = |text: &str| {
            let tokens = self.tokenizer.encode(text, usize::MAX);
            tokens.map_err(|e| unreadable(Modality::Text, e))
        };
        let ids = whole(&format!("{prompt}{text}"))?.ids;
        let parts = Parts::new(&ids, &whole(prompt)?.ids, self.tokenizer.special_around());
        let room = parts.room(self.contract.max_tokens);
        if self.long_text == LongText::Late {
            return self.pool_late(&parts, &parts.overlapping(room));
        }
        let windows = parts.pieces(room);
        let mut ids: Vec<Vec<u32>> = windows.iter().map(|w| parts.ids(w)).collect();
        ids.iter_mut().for_each(|ids| self.contract.fill(ids, self.tokenizer));
        let vectors = self.tower.embed(&ids.iter().collect::<Vec<_>>())?;
        let weights: Vec<usize> = windows.iter().map(|w| w.own.len()).collect();
        Ok(weighted_mean(&vectors, &weights))
    }

    /// The mean of all tokens' states; what stands before and after the text counts once.
    fn pool_late(&self, parts: &Parts, windows: &[Window]) -> Result<Vec<f32>, EmbedError> {
        let ids: Vec<Vec<u32>> = windows.iter().map(|w| parts.ids(w)).collect();
        let states = self.tower.token_states(&ids.iter().collect::<Vec<_>>())?;
        let (mut sum, mut n) = (vec![0.0_f64; states[0].width()], 0);
        let last = windows.len() - 1;
        for (i, (window, states)) in windows.iter().zip(&states).enumerate() {
            let shift = parts.before.len();
            let own = |at: usize| at - window.tokens.start + shift;
            let start = if i == 0 { 0 } else { own(window.own.start) };
            let end = if i == last { states.len() } else { own(window.own.end) };
            for row in states.rows().take(end).skip(start) {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
                n += 1;
            }
        }
        let mean: Vec<f32> = sum.iter().map(|s| (s / f64::from(n.max(1))) as f32).collect();
        let pooled = Embeddings::new(mean.len(), mean).expect("one row");
        Ok(self.tower.finish_pooled(&pooled).into_values())
    }
}
