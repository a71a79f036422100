//! Why a model could not be loaded, saved or built.

use std::path::PathBuf;

/// A model operation failed: where, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot use model `{place}`")]
pub struct ModelError {
    /// The folder, file or name of the model.
    pub place: String,
    /// What is wrong.
    #[source]
    pub kind: ModelErrorKind,
}

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelErrorKind {
    /// A file could not be read or written; the error names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The folder has none of the layouts this build reads.
    #[error(
        "no known layout: expected `manifest.json` (conjoin), `modules.json` (sentence-transformers), \
         `config.json` (transformers, timm), `open_clip_config.json` or `layers.json` (Keras MobileNet)"
    )]
    UnknownLayout,
    /// A folder without a model that ranks.
    #[error(
        "no reranker: expected a `config.json` with an architecture `…ForSequenceClassification`, or the \
         layout of PyLate or of Stanford's ColBERT"
    )]
    NoReranker,
    /// A classifier of pairs.
    #[error("this cross-encoder gives {0} scores per pair, ranking needs one")]
    SeveralScores(usize),
    /// A model for something else than embedding.
    #[error("this is {found}, which gives no embeddings; use it with `{way}`")]
    OtherUse {
        /// What it is.
        found: &'static str,
        /// The command for it.
        way: &'static str,
    },
    /// Pickled weights run code when read; they are refused.
    #[error(
        "`{}` is a pickle, which can run code; convert it to safetensors with the library that made it",
        .0.display()
    )]
    Pickle(PathBuf),
    /// A JSON file does not have the expected shape.
    #[error("`{file}` is not as expected")]
    Json {
        /// The file.
        file: String,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON file is far larger than any of its kind.
    #[error("`{file}` has {found} bytes, the limit is {limit}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        found: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A configuration value this build does not implement; guessing would change the numbers.
    #[error("`{file}`: `{key}` is {found}, this build implements {supported}")]
    Unsupported {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The value found.
        found: String,
        /// What is implemented.
        supported: String,
    },
    /// The safetensors file is damaged.
    #[error("`{file}` is cut off or damaged: not a valid safetensors file")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The weights lack a tensor.
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    /// Two files of a model hold a tensor of one name.
    #[error("tensor `{0}` is in two files")]
    DoubleTensor(String),
    /// The index of a large model names something that is no file beside it.
    #[error("`model.safetensors.index.json` names `{0}`, which is no file beside it")]
    Shard(String),
    /// A tensor has another shape than the spec says.
    #[error("tensor `{name}` has shape {found:?}, the spec needs {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the spec.
        expected: Vec<usize>,
    },
    /// A tensor has a number type this build does not read.
    #[error("tensor `{name}` has type {found}, this build reads F64, F32, F16, BF16 and I8")]
    NumberType {
        /// The tensor.
        name: String,
        /// The type found.
        found: String,
    },
    /// A tensor that should hold row numbers does not.
    #[error("tensor `{name}` ({found}) is no list of row numbers, or one is out of range")]
    Indices {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{0}` has a value that is not finite")]
    NotFinite(String),
    /// The file has tensors nothing uses; ignoring them could mean a wrong model.
    #[error("tensors {0:?} are not used by the spec")]
    UnusedTensors(Vec<String>),
    /// The spec contradicts itself.
    #[error("spec: `{key}` is {found}, expected {expected}")]
    Spec {
        /// The key.
        key: &'static str,
        /// The value found.
        found: String,
        /// What is valid.
        expected: String,
    },
    /// The two towers do not share a space.
    #[error("the text tower gives {text} dimensions, the image tower {image}")]
    Widths {
        /// Width of text embeddings.
        text: usize,
        /// Width of image embeddings.
        image: usize,
    },
    /// The vectors cannot be cut to this width: the model was not trained for it.
    #[error("{found} dimensions were asked for, the model's vectors can have {widths:?}")]
    Dimensions {
        /// The width asked for.
        found: usize,
        /// The widths there are.
        widths: Vec<usize>,
    },
    /// The model has no adapters to choose from.
    #[error("the adapter `{found}` was asked for, this kind of model has none")]
    NoAdapter {
        /// The adapter asked for.
        found: String,
    },
    /// A tokeniser in a form that holds only half of its rules.
    #[error(
        "`{}` is there, but no `tokenizer.json`; write one in Python with `tokenizers`' converters \
         (`AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)`)",
        .0.display()
    )]
    SentencePiece(PathBuf),
    /// The tokeniser cannot be used.
    #[error("the tokeniser cannot be used")]
    Tokenizer(#[from] conjoin_input::TokenizerError),
    /// The input contract is not valid.
    #[error("the input contract is not valid")]
    Contract(#[from] conjoin_input::ContractError),
    /// An input of the references cannot be embedded.
    #[error("an input cannot be embedded")]
    Embed(#[from] conjoin_core::EmbedError),
    /// A tower refused an input of the references.
    #[error(transparent)]
    Tower(#[from] conjoin_core::TowerError),
    /// A picture of the references cannot be read.
    #[error("a picture cannot be read")]
    Image(#[from] conjoin_input::ImageError),
    /// The layout a model is to be exported to has no words for one of its rules.
    #[error(
        "{target} cannot say {what}: {found}; targets that can say all of this model: {others}"
    )]
    NotExpressible {
        /// The rule.
        what: String,
        /// The model's.
        found: String,
        /// The layout.
        target: &'static str,
        /// The layouts that can.
        others: String,
    },
    /// A checkpoint of a version whose spec said less.
    #[error("checkpoint version {found}, this build reads {oldest}; train the model anew")]
    TooOld {
        /// The version found.
        found: u32,
        /// The oldest that is read.
        oldest: u32,
    },
    /// The checkpoint folder cannot be used.
    #[error(transparent)]
    Artifact(Box<conjoin_core::ArtifactErrorKind>),
}

impl From<conjoin_core::ArtifactError> for ModelErrorKind {
    fn from(error: conjoin_core::ArtifactError) -> Self {
        // The place is told by [`ModelError`].
        Self::Artifact(Box::new(error.kind))
    }
}

impl ModelErrorKind {
    /// Adds the place.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> ModelError {
        ModelError { place: place.into(), kind: self }
    }
}
