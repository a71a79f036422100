//! The public layouts this build reads, one file each.
//!
//! In:  a folder. Out: a [`Plan`]: specs, the name of every tensor, contract, tokeniser, and how each
//! was told. The forward is the same for all.
//!
//! Adding a family is adding a rule from its configuration to a spec, and a map from its tensor names to
//! ours. A value that would change numbers and is not known is an error, never a guess.

pub mod bert;
mod clip;
pub mod colbert;
pub(crate) mod config;
pub mod cross_encoder;
mod distilbert;
mod eva;
mod folder;
mod jina_clip;
mod jina_embeddings;
mod jina_text;
pub mod mobilenet;
pub mod model_card;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod open_clip;
mod open_clip_tokenizer;
mod plan;
mod preprocessor;
mod prompts;
mod roberta;
mod sentence_transformers;
mod siglip;
mod static_embeddings;
mod text;
mod timm;
mod timm_names;
mod tokenizer;

pub use config::{Note, Reading};
pub use plan::{Options, Plan};

use std::path::Path;

use crate::{ModelError, ModelErrorKind, checkpoint::read_json, families::config::Log};

/// Recognises the layout of a folder and plans the model in it.
pub(crate) fn plan(folder: &Path, options: &Options) -> Result<Plan, ModelErrorKind> {
    let log = Log::default();
    let has = |name: &str| folder.join(name).exists();
    let kind = model_type(folder)?;
    let ranks = |found| Err(ModelErrorKind::OtherUse { found, way: "conjoin rerank" });
    match Kind::of(folder).map_err(|error| error.kind)? {
        Kind::LateInteraction => return ranks("a model of late interaction"),
        Kind::CrossEncoder => return ranks("a cross-encoder"),
        Kind::Embedder => {}
    }
    let mut plan = if kind.as_deref() == Some("jina_clip") {
        // Its folder has a `modules.json` too, whose module is code.
        jina_clip::plan(folder, &log, options)?
    } else if kind.as_deref().is_some_and(|kind| kind.starts_with("siglip")) {
        no_adapter(options)?;
        siglip::plan(folder, &log)?
    } else if static_embeddings::is_here(folder)? {
        static_embeddings::plan(folder, &log)?
    } else if has("modules.json") {
        sentence_transformers::plan(folder, options, &log)?
    } else if has(open_clip::CONFIG) && !has("model.safetensors") {
        no_adapter(options)?;
        open_clip::plan(folder, &log)?
    } else if kind.as_deref().is_some_and(|kind| kind.starts_with("clip")) {
        no_adapter(options)?;
        clip::plan(folder, &log)?
    } else if has(open_clip::CONFIG) {
        no_adapter(options)?;
        open_clip::plan(folder, &log)?
    } else if has(mobilenet::LAYERS) {
        no_adapter(options)?;
        mobilenet::plan(folder, &log)?
    } else if has("config.json") && kind.is_none() {
        no_adapter(options)?;
        timm::plan(folder, &log)?
    } else if kind.is_some() {
        sentence_transformers::plan_plain(folder, options, &log)?
    } else {
        return Err(ModelErrorKind::UnknownLayout);
    };
    plan.reading = log.take();
    Ok(plan)
}

/// Refuses adapters for families that have none.
fn no_adapter(options: &Options) -> Result<(), ModelErrorKind> {
    match options.adapter.clone() {
        Some(found) => Err(ModelErrorKind::NoAdapter { found }),
        None => Ok(()),
    }
}

/// `model_type` of a transformers `config.json`, if there is one.
fn model_type(folder: &Path) -> Result<Option<String>, ModelErrorKind> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Ok(None);
    }
    let config: serde_json::Value = read_json(&path)?;
    Ok(config["model_type"].as_str().map(str::to_owned))
}

/// What a model is called: its name on the hub where the folder is the hub's cache, else the folder's.
fn name_of(folder: &Path) -> String {
    let parts = folder.components().rev().map(|part| part.as_os_str().to_string_lossy());
    let hub = parts
        .clone()
        .take(3)
        .find_map(|part| Some(part.strip_prefix("models--")?.replacen("--", "/", 1)));
    hub.or_else(|| parts.clone().next().map(Into::into)).unwrap_or_default()
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One vector per input: [`Plan`].
    Embedder,
    /// A score per pair of texts: [`cross_encoder::PairPlan`].
    CrossEncoder,
    /// A vector per token: [`colbert::LatePlan`].
    LateInteraction,
}

impl Kind {
    /// What the model in a folder of somebody else's is for.
    ///
    /// # Errors
    /// When a file that tells it cannot be read.
    pub fn of(folder: &Path) -> Result<Self, ModelError> {
        let kind = || {
            Ok(if colbert::is_here(folder)? {
                Self::LateInteraction
            } else if cross_encoder::is_here(folder)? {
                Self::CrossEncoder
            } else {
                Self::Embedder
            })
        };
        kind().map_err(|kind: ModelErrorKind| kind.at(folder.display().to_string()))
    }
}
