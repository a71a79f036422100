//! What of a tower is trained, and at which share of the learning rate.
//!
//! In:  a [`SelectionConfig`], a tower's parameters; the optimiser's list of prefixes.
//! Out: which parameters are frozen, and one factor on the learning rate for each.
//! Not here: the update (`adamw`), low-rank adapters (`lora`), the rate over time (`schedule`).
//! Source: layer-wise decay as in BEiT (Bao et al. 2021, `get_num_layer_for_vit`) and EVA-02: in a
//!      tower of `L` layers what comes before the layers moves at `d^(L+1)` of the rate, layer `l` (from
//!      0) at `d^(L-l)`, what comes after the last layer at the whole rate. Scores of distances that all
//!      layers share come before them, as in timm; BEiT's own script counts them as the last.

use conjoin_core::Parameter;
use serde::{Deserialize, Serialize};

use crate::{config::Faults, error::ConfigError};

/// Words that come before a layer's number in a name: of transformers, of convolutional networks.
const LAYER_WORDS: [&str; 2] = ["layers", "blocks"];

const FACTOR_RULE: &str = "a number of at least 0";

/// A factor on the learning rate of all parameters whose name starts with a prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrMultiplier {
    /// The start of the name (`image.`).
    pub prefix: String,
    /// The factor, at least 0.
    pub factor: f64,
}

/// What of one tower is trained. The default trains all of it at one rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectionConfig {
    /// Parameters whose name starts with one of these stay as they are (`text.tokens.`).
    pub freeze: Vec<String>,
    /// So many layers, from the first, stay as they are, and all that comes before them (embeddings,
    /// patches, stem); 0 freezes nothing.
    pub freeze_layers: usize,
    /// How much slower a layer moves than the one after it, above 0 and at most 1; 1: as fast.
    pub layer_decay: f64,
    /// Factor on the learning rate of the whole tower, at least 0.
    pub lr_factor: f64,
}

impl Default for SelectionConfig {
    fn default() -> Self {
        Self { freeze: Vec::new(), freeze_layers: 0, layer_decay: 1.0, lr_factor: 1.0 }
    }
}

/// What a [`SelectionConfig`] means for a list of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Whether training leaves a parameter alone, `[n]` for `n` parameters.
    pub frozen: Vec<bool>,
    /// Factors on the learning rate, `[n]`.
    pub lr_multipliers: Vec<f64>,
}

impl SelectionConfig {
    /// Passes, or tells every setting that cannot be; `key` is the path of this table.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let (decay, lr) = (self.layer_decay, self.lr_factor);
        let in_range = decay > 0.0 && decay <= 1.0;
        faults.need(&format!("{key}.layer_decay"), decay, in_range, "above 0 and at most 1");
        let in_range = lr.is_finite() && lr >= 0.0;
        faults.need(&format!("{key}.lr_factor"), lr, in_range, FACTOR_RULE);
        faults.done()
    }

    /// Applies the settings to a tower's parameters, given in the tower's order; `key` is the path of
    /// this table. A parameter that is frozen already stays so.
    ///
    /// # Errors
    /// When [`SelectionConfig::check`] fails, a prefix fits no parameter, or layers are meant that the
    /// tower does not have.
    pub fn select(&self, key: &str, parameters: &[Parameter]) -> Result<Selection, ConfigError> {
        self.check(key)?;
        let depths = Depths::of(parameters);
        self.check_against(key, parameters, depths.n_layers)?;
        let frozen = |i: usize, p: &Parameter| {
            let named = self.freeze.iter().any(|prefix| p.name.starts_with(prefix));
            p.frozen || named || depths.of_parameters[i] < self.first_trained_depth()
        };
        let multiplier = |depth: &usize| {
            let below = i32::try_from(depths.n_layers + 1 - depth).unwrap_or(i32::MAX);
            self.lr_factor * self.layer_decay.powi(below)
        };
        Ok(Selection {
            frozen: parameters.iter().enumerate().map(|(i, p)| frozen(i, p)).collect(),
            lr_multipliers: depths.of_parameters.iter().map(multiplier).collect(),
        })
    }

    /// The depth from which on layers are trained.
    fn first_trained_depth(&self) -> usize {
        if self.freeze_layers == 0 { 0 } else { self.freeze_layers + 1 }
    }

    fn check_against(
        &self,
        key: &str,
        parameters: &[Parameter],
        n_layers: usize,
    ) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        for (i, prefix) in self.freeze.iter().enumerate() {
            need_prefix(&format!("{key}.freeze.{i}"), prefix, &[parameters], &mut faults);
        }
        let found = format!("{} in a tower of {n_layers} layers", self.freeze_layers);
        let fits = self.freeze_layers <= n_layers;
        faults.need(&format!("{key}.freeze_layers"), found, fits, "at most the number of layers");
        let found = format!("{} in a tower without layers", self.layer_decay);
        let fits = n_layers > 0 || self.layer_decay == 1.0;
        faults.need(&format!("{key}.layer_decay"), found, fits, "1 there");
        faults.done()
    }
}

impl Selection {
    /// Marks the parameters it was made for.
    ///
    /// # Panics
    /// When they are not those.
    pub fn freeze(&self, parameters: &mut [Parameter]) {
        assert_eq!(parameters.len(), self.frozen.len(), "the selection's own parameters");
        for (parameter, frozen) in parameters.iter_mut().zip(&self.frozen) {
            parameter.frozen = *frozen;
        }
    }

    /// Multiplies its factors with those of the optimiser's prefixes.
    #[must_use]
    pub fn with_prefixes(mut self, list: &[LrMultiplier], parameters: &[Parameter]) -> Self {
        for (own, by_prefix) in
            self.lr_multipliers.iter_mut().zip(prefix_multipliers(list, parameters))
        {
            *own *= by_prefix;
        }
        self
    }
}

/// Factors on the learning rate by prefix, `[n]` for `n` parameters: of several prefixes that fit, the
/// longest counts; without any it is 1.
#[must_use]
pub fn prefix_multipliers(list: &[LrMultiplier], parameters: &[Parameter]) -> Vec<f64> {
    let of_name = |name: &str| {
        let fitting = list.iter().filter(|m| name.starts_with(&m.prefix));
        fitting.max_by_key(|m| m.prefix.len()).map_or(1.0, |m| m.factor)
    };
    parameters.iter().map(|p| of_name(&p.name)).collect()
}

/// Passes when every prefix fits a parameter of one of the lists; `key` is the path of `list`.
///
/// # Errors
/// When a prefix fits none.
pub fn check_prefixes(
    key: &str,
    list: &[LrMultiplier],
    parameters: &[&[Parameter]],
) -> Result<(), ConfigError> {
    let mut faults = Faults::default();
    for (i, LrMultiplier { prefix, .. }) in list.iter().enumerate() {
        need_prefix(&format!("{key}.{i}.prefix"), prefix, parameters, &mut faults);
    }
    faults.done()
}

/// Notes a fault where a prefix fits no parameter; it tells some that there are.
pub(crate) fn need_prefix(
    key: &str,
    prefix: &str,
    parameters: &[&[Parameter]],
    faults: &mut Faults,
) {
    let all = || parameters.iter().flat_map(|list| list.iter());
    let fits = all().any(|p| p.name.starts_with(prefix));
    let expected = format!("the start of a parameter's name, such as {}", some_names(all()));
    faults.need(key, format!("`{prefix}`"), fits, expected);
}

/// The most names that an error tells.
const MOST_NAMES: usize = 12;

/// A name of each part of a model, in the model's order: `text.tokens.weight`,
/// `text.layers.0.attention.norm.weight`.
pub(crate) fn some_names<'p>(parameters: impl Iterator<Item = &'p Parameter>) -> String {
    let part = |name: &'p str| name.match_indices('.').nth(1).map_or(name, |(at, _)| &name[..at]);
    let mut told: Vec<&str> = Vec::new();
    for parameter in parameters {
        if told.iter().all(|name| part(name) != part(&parameter.name)) {
            told.push(&parameter.name);
        }
    }
    told.truncate(MOST_NAMES);
    told.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Where the parameters of a tower stand on the way from input to embedding.
struct Depths {
    n_layers: usize,
    /// 0: before the layers, `l + 1`: in layer `l`, `n_layers + 1`: after them.
    of_parameters: Vec<usize>,
}

impl Depths {
    /// Reads layers from the names; towers declare the rest in the order in which it is used. In a
    /// tower without layers everything comes after them.
    fn of(parameters: &[Parameter]) -> Self {
        let layers: Vec<Option<usize>> = parameters.iter().map(|p| layer(&p.name)).collect();
        let n_layers = layers.iter().flatten().max().map_or(0, |last| last + 1);
        let first = layers.iter().position(Option::is_some).unwrap_or(0);
        let outside = |i: usize| if i < first { 0 } else { n_layers + 1 };
        let depth = |(i, layer): (usize, &Option<usize>)| layer.map_or(outside(i), |l| l + 1);
        Self { n_layers, of_parameters: layers.iter().enumerate().map(depth).collect() }
    }
}

/// The number of the layer a name belongs to (3 of `text.layers.3.mlp.up.weight`).
fn layer(name: &str) -> Option<usize> {
    let mut words = name.split('.').skip_while(|word| !LAYER_WORDS.contains(word));
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests;
