//! Models as data: specs, one forward over the engine, weights and name maps.
//!
//! In:  a checkpoint folder (ours, or any layout of `families`) or a spec and a seed.
//! Out: [`TextTower`] and [`ImageTower`] for training, [`Model`] as an embedder.
//! Not here: kernels and gradients (`conjoin-engine`), tokenising and resizing (`conjoin-input`).
//!
//! Adding a transformer family is adding a file under `families`: a rule from its `config.json` to an
//! [`EncoderSpec`], and a name map from its tensor names to ours.

mod calibration;
mod checkpoint;
mod cross_encoder;
mod encoder;
mod error;
mod export;
pub mod families;
mod late_interaction;
mod layout;
mod long_text;
mod matryoshka;
mod mobilenet;
mod model;
mod origin;
mod overlap;
mod places;
mod pooling;
mod precision;
mod ranker;
pub mod reference;
mod spec;
mod tiles;
mod tower;
mod weight_file;
mod weights;

pub use calibration::{
    CalibrationError, MeasuredPrecision, ModelCalibration, SAMPLE_SIZE, Sample, TowerCalibration,
    nearness,
};
pub use checkpoint::{CHECKPOINT_FORMAT, CHECKPOINT_VERSION};
pub use conjoin_engine::Precision;
pub use cross_encoder::CrossEncoder;
pub use error::{ModelError, ModelErrorKind};
pub use export::{EXPORT_FORMAT, EXPORT_VERSION, Export, ExportTarget};
pub use late_interaction::{LateInteraction, TokenVectors};
pub use long_text::LongText;
pub use matryoshka::Matryoshka;
pub use model::{Card, Model, ModelParts, ModelSpec};
pub use origin::{Content, FolderLayout, ForeignTensor, Order, Origin, Piece};
pub use precision::{ModelPrecision, TowerPrecision};
pub use ranker::{Ranker, open_reranker};
pub use spec::{
    AttentionRule, EncoderInput, EncoderSpec, HeadLayer, ImageSpec, Local, MlpRule, MobileNetBlock,
    MobileNetSpec, NormPlacement, NormRule, OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes,
    ScoreBias,
};
pub use tower::{ImageTower, Observe, Observer, Rows, Sequence, SequenceTower, TextTower};
pub use weight_file::Weights;
pub use weights::{NameMap, Source};
