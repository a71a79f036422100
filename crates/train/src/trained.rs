//! A tower with all that its training needs: what of it is trained, its gradients, its optimiser, and
//! where asked for its adapters and its running average.
//!
//! In:  a tower, a [`TowerConfig`]. Out: gradients to fill, one update per step.
//! Not here: where gradients come from (`grad_cache`), the steps (`trainer`).

use conjoin_core::{Gradients, Parameter, Seed, Tower};
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamW,
    average::Average,
    config::{Faults, TrainConfig},
    error::ConfigError,
    lora::{Lora, LoraConfig},
    selection::{SelectionConfig, need_prefix},
    state::{self, Part, PartMut},
};

/// What of a tower is trained, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TowerConfig {
    /// Which parameters are trained, and at which rate.
    pub select: SelectionConfig,
    /// Train low-rank adapters instead of whole matrices; everything else stays as it is, but for
    /// [`TowerConfig::whole`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// With adapters: parameters whose name starts with one of these are trained whole beside them
    /// (`text.head.`).
    pub whole: Vec<String>,
    /// Keep of a recorded pass only what goes into each layer, and compute the layer once more on the way
    /// back. Less memory for about a third more time; never affects the result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub checkpoint_layers: bool,
}

impl TowerConfig {
    /// Passes, or tells every setting that cannot be; `key` is the path of this table.
    pub(crate) fn check(&self, key: &str) -> Result<(), ConfigError> {
        self.select.check(&format!("{key}.select"))?;
        let mut faults = Faults::default();
        let fits = self.whole.is_empty() || self.lora.is_some();
        let expected = "left out without `lora`: all that is not frozen is trained whole";
        faults.need(&format!("{key}.whole"), format!("{:?}", self.whole), fits, expected);
        faults.done()
    }

    /// Every start of names that is trained whole fits one.
    fn check_whole(&self, key: &str, parameters: &[Parameter]) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        for (i, prefix) in self.whole.iter().enumerate() {
            need_prefix(&format!("{key}.whole.{i}"), prefix, &[parameters], &mut faults);
        }
        faults.done()
    }

    /// Tells a tower what of its passes to keep; `key` is the path of this table.
    fn set_up(&self, key: &str, tower: &mut impl Tower) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let fits = tower.checkpoint_layers(self.checkpoint_layers);
        let expected = "false: this tower has no layers that could be computed twice";
        faults.need(&format!("{key}.checkpoint_layers"), self.checkpoint_layers, fits, expected);
        faults.done()
    }
}

/// A tower in training.
pub(crate) struct Trained<'a, T: Tower> {
    pub(crate) tower: &'a mut T,
    pub(crate) gradients: Gradients,
    optimizer: AdamW,
    adapters: Option<Adapters>,
    average: Option<Average>,
    /// SHA-256 over what stays as it is.
    frozen: String,
}

/// Adapters with what their training needs.
struct Adapters {
    lora: Lora,
    gradients: Gradients,
    optimizer: AdamW,
}

impl<'a, T: Tower> Trained<'a, T> {
    /// `key` is the configuration's path of this tower.
    pub(crate) fn new(
        tower: &'a mut T,
        key: &str,
        config: &TowerConfig,
        all: &TrainConfig,
    ) -> Result<Self, ConfigError> {
        config.set_up(key, tower)?;
        config.check_whole(key, tower.parameters())?;
        let mut selection = config.select.select(&format!("{key}.select"), tower.parameters())?;
        if config.lora.is_some() {
            for (frozen, p) in selection.frozen.iter_mut().zip(tower.parameters()) {
                *frozen |= !config.whole.iter().any(|prefix| p.name.starts_with(prefix));
            }
        }
        selection.freeze(tower.parameters_mut());
        let frozen = state::hash_frozen(tower.parameters());
        let parameters = tower.parameters();
        let multipliers =
            selection.with_prefixes(&all.optimizer.lr_multipliers, parameters).lr_multipliers;
        let optimizer = AdamW::with_multipliers(all.optimizer.clone(), parameters, multipliers);
        let adapters = match &config.lora {
            None => None,
            Some(lora) => {
                let seed = all.seed.stream("lora").stream(key);
                let factor = config.select.lr_factor;
                Some(Adapters::new(lora, &format!("{key}.lora"), tower, factor, (all, seed))?)
            }
        };
        let parameters = tower.parameters();
        let gradients = Gradients::zeros(parameters);
        let average = match &all.average {
            None => None,
            Some(average) => Some(Average::new(*average, "average", parameters)?),
        };
        Ok(Self { tower, gradients, optimizer, adapters, average, frozen })
    }

    pub(crate) fn frozen_hash(&self) -> &str {
        &self.frozen
    }

    pub(crate) fn clear(&mut self) {
        self.gradients.clear();
        if let Some(adapters) = &mut self.adapters {
            adapters.gradients.clear();
        }
    }

    /// Brings the gradients of adapted matrices to their adapters.
    pub(crate) fn project(&mut self) {
        if let Some(Adapters { lora, gradients, .. }) = &mut self.adapters {
            lora.project(&self.gradients, gradients);
            lora.clear_adapted(&mut self.gradients);
        }
    }

    /// All gradients that an update uses.
    pub(crate) fn all_gradients(&self) -> impl Iterator<Item = &Gradients> {
        let adapters = self.adapters.as_ref().map(|adapters| &adapters.gradients);
        std::iter::once(&self.gradients).chain(adapters)
    }

    pub(crate) fn update(&mut self, lr: f64, gradient_scale: f32) {
        self.optimizer.step(self.tower.parameters_mut(), &self.gradients, lr, gradient_scale);
        if let Some(Adapters { lora, gradients, optimizer }) = &mut self.adapters {
            optimizer.step(lora.adapters_mut(), gradients, lr, gradient_scale);
            lora.merge_into(self.tower.parameters_mut());
        }
        if let Some(average) = &mut self.average {
            average.update(self.tower.parameters());
        }
    }

    /// Exchanges the weights with their running average, if there is one.
    pub(crate) fn swap_average(&mut self) {
        if let Some(average) = &mut self.average {
            average.swap(self.tower.parameters_mut());
        }
    }

    pub(crate) fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part {
            parameters: self.tower.parameters(),
            optimizer: &self.optimizer,
            average: self.average.as_ref(),
        }];
        if let Some(Adapters { lora, optimizer, .. }) = &self.adapters {
            parts.push(Part { parameters: lora.adapters(), optimizer, average: None });
        }
        parts
    }

    pub(crate) fn parts_mut(&mut self) -> Vec<PartMut<'_>> {
        let parameters = self.tower.parameters_mut();
        let average = self.average.as_mut();
        let mut parts = vec![PartMut { parameters, optimizer: &mut self.optimizer, average }];
        if let Some(Adapters { lora, optimizer, .. }) = &mut self.adapters {
            parts.push(PartMut { parameters: lora.adapters_mut(), optimizer, average: None });
        }
        parts
    }

    /// To be called when the parts were filled from a state.
    pub(crate) fn filled(&mut self) {
        if let Some(adapters) = &mut self.adapters {
            adapters.lora.merge_into(self.tower.parameters_mut());
        }
    }
}

impl Adapters {
    fn new(
        config: &LoraConfig,
        key: &str,
        tower: &mut impl Tower,
        lr_factor: f64,
        (all, seed): (&TrainConfig, Seed),
    ) -> Result<Self, ConfigError> {
        let lora = Lora::new(config, key, tower.parameters(), seed)?;
        lora.unfreeze(tower.parameters_mut());
        let multipliers = vec![lr_factor; lora.adapters().len()];
        let optimizer =
            AdamW::with_multipliers(all.optimizer.clone(), lora.adapters(), multipliers);
        Ok(Self { gradients: Gradients::zeros(lora.adapters()), optimizer, lora })
    }
}
