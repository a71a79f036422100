//! What a task of the training owns besides the towers: its loss and the loss's own numbers.
//!
//! In:  a loss. Out: its scalars as parameters, updated by the same optimiser as the towers.
//! Not here: which inputs go to which tower (`trainer`). Another task (text–text, say) is another
//! `Task` with its own name, and one more call of `grad_cache::step` per training step.

use std::collections::BTreeMap;

use conjoin_core::{Gradients, Parameter};

use crate::{
    adamw::{AdamW, AdamWConfig},
    losses::Loss,
};

pub(crate) struct Task {
    pub(crate) loss: Box<dyn Loss>,
    /// The loss's scalars: without decay, frozen where they are not learned.
    pub(crate) scalars: Vec<Parameter>,
    pub(crate) gradients: Gradients,
    pub(crate) optimizer: AdamW,
}

impl Task {
    /// A task whose scalars are called `loss.NAME.SCALAR`.
    pub(crate) fn new(name: &str, loss: Box<dyn Loss>, config: &AdamWConfig) -> Self {
        let scalars: Vec<Parameter> = loss
            .scalars()
            .iter()
            .map(|scalar| Parameter {
                name: format!("loss.{name}.{}", scalar.name),
                shape: Vec::new(),
                value: vec![scalar.init].into(),
                decay: false,
                frozen: !scalar.learned,
            })
            .collect();
        let (gradients, optimizer) =
            (Gradients::zeros(&scalars), AdamW::new(config.clone(), &scalars));
        Self { loss, scalars, gradients, optimizer }
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        self.scalars.iter().map(|scalar| scalar.value[0]).collect()
    }

    pub(crate) fn named_values(&self) -> BTreeMap<String, f32> {
        let specs = self.loss.scalars();
        specs.iter().map(|spec| spec.name.to_owned()).zip(self.values()).collect()
    }

    /// Adds `dL/dscalar`.
    pub(crate) fn add_gradients(&mut self, d_scalars: &[f64]) {
        for (gradient, d) in self.gradients.iter_mut().zip(d_scalars) {
            gradient.iter_mut().for_each(|g| *g += *d as f32);
        }
    }

    /// Moves the scalars and brings them back into their ranges.
    pub(crate) fn update(&mut self, lr: f64, gradient_scale: f32) {
        self.optimizer.step(&mut self.scalars, &self.gradients, lr, gradient_scale);
        for (parameter, spec) in self.scalars.iter_mut().zip(self.loss.scalars()) {
            parameter.value[0] = parameter.value[0].clamp(spec.min, spec.max);
        }
    }
}
