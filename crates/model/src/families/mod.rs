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
pub mod mobilenet;
mod plan;
mod sentence_transformers;
mod text;

pub use config::{Note, Reading};
pub use plan::Plan;

use std::path::Path;

use crate::{ModelErrorKind, families::config::Log};

/// Recognises the layout of a folder and plans the model in it.
pub(crate) fn plan(folder: &Path) -> Result<Plan, ModelErrorKind> {
    let log = Log::default();
    let mut plan = if folder.join("modules.json").exists() {
        sentence_transformers::plan(folder, &log)?
    } else {
        return Err(ModelErrorKind::UnknownLayout);
    };
    plan.reading = log.take();
    Ok(plan)
}
