//! How the products of a model are computed, tower by tower.
//!
//! In:  a precision per tower, and exceptions for some weights by name.
//! Not here: the arithmetic (`conjoin-engine`), which precision serves a model (`calibration`).

use std::collections::BTreeMap;

use conjoin_core::Parameter;
use conjoin_engine::Precision;
use serde::{Deserialize, Serialize};

use crate::ModelErrorKind;

/// How the products of one tower are computed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerPrecision {
    /// The precision of products no exception is made for.
    pub precision: Precision,
    /// The precision of the products with some weights, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exceptions: BTreeMap<String, Precision>,
}

impl From<Precision> for TowerPrecision {
    fn from(precision: Precision) -> Self {
        Self { precision, exceptions: BTreeMap::new() }
    }
}

impl TowerPrecision {
    /// Refuses exceptions for weights that are not there.
    pub(crate) fn check(&self, parameters: &[Parameter]) -> Result<(), ModelErrorKind> {
        let unknown = |name: &&String| !parameters.iter().any(|p| p.name == **name);
        match self.exceptions.keys().find(unknown) {
            None => Ok(()),
            Some(name) => Err(ModelErrorKind::Spec {
                key: "precision.exceptions",
                found: format!("`{name}`"),
                expected: "names of the tower's parameters".to_owned(),
            }),
        }
    }
}

/// How the products of a model are computed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrecision {
    /// In the tower that reads texts; that of a model that ranks, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TowerPrecision>,
    /// In the tower that sees pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<TowerPrecision>,
}

impl From<Precision> for ModelPrecision {
    fn from(precision: Precision) -> Self {
        Self { text: Some(precision.into()), image: Some(precision.into()) }
    }
}
