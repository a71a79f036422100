//! The precision a user asks for, set in a model.
//!
//! Not here: the arithmetic (`conjoin-engine`).

use anyhow::{Context, Result};
use conjoin_model::{Model, ModelPrecision};
use serde_json::Value;

use crate::args::PrecisionArgs;

/// The fact of a manifest that tells how products were computed, tower by tower.
const PRECISION_FACT: &str = "precision";

impl PrecisionArgs {
    /// What was asked for.
    pub(crate) fn plan(&self) -> ModelPrecision {
        self.precision.into()
    }

    /// Sets it in a model.
    pub(crate) fn apply(&self, mut model: Model) -> Result<Model> {
        model.set_precision(&self.plan()).context("`--precision`")?;
        Ok(model)
    }
}

/// What the manifest of vectors tells of the precision they were computed in.
pub(crate) fn fact(model: &Model) -> Result<(String, Value)> {
    Ok((PRECISION_FACT.to_owned(), serde_json::to_value(model.precision())?))
}
