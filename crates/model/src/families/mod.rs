//! The public layouts this build reads, one file each.
//!
//! In:  a folder. Out: a [`Plan`]: specs, the name of every tensor, contract, tokeniser, and how each
//! was told. The forward is the same for all.
//!
//! Adding a family is adding a rule from its configuration to a spec, and a map from its tensor names to
//! ours. A value that would change numbers and is not known is an error, never a guess.

pub mod bert;
pub mod clip;
pub(crate) mod config;
mod eva;
mod jina_clip;
mod jina_text;
pub mod mobilenet;
pub mod model_card;
mod plan;
mod preprocessor;
mod sentence_transformers;
mod siglip;
mod text;

pub use config::{Note, Reading};
pub use plan::{Options, Plan};

use std::path::Path;

use crate::{ModelErrorKind, checkpoint::read_json, families::config::Log};

/// Recognises the layout of a folder and plans the model in it.
pub(crate) fn plan(folder: &Path, options: &Options) -> Result<Plan, ModelErrorKind> {
    let log = Log::default();
    let kind = model_type(folder)?;
    if let (Some(found), true) = (&options.adapter, kind.as_deref() != Some("jina_clip")) {
        let found = found.clone();
        return Err(ModelErrorKind::NoAdapter { found });
    }
    let mut plan = if kind.as_deref() == Some("jina_clip") {
        // Its folder has a `modules.json` too, whose module is code.
        jina_clip::plan(folder, &log, options)?
    } else if kind.as_deref().is_some_and(|kind| kind.starts_with("siglip")) {
        siglip::plan(folder, &log)?
    } else if folder.join("modules.json").exists() {
        sentence_transformers::plan(folder, &log)?
    } else {
        return Err(ModelErrorKind::UnknownLayout);
    };
    plan.reading = log.take();
    Ok(plan)
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
