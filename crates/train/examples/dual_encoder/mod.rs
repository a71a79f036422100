//! Two towers in training with a symmetric InfoNCE, as the examples time them.

use std::error::Error;

use conjoin_core::{Gradients, Parameter, Tower};
use conjoin_input::Pixels;
use conjoin_model::{ImageTower, TextTower};
use conjoin_train::{
    AdamW, AdamWConfig, Chunking, FalseNegatives, InfoNce, Labels, LossScalar, Reduction,
    ScalarConfig, Side, Sink, Task, step,
};

const LEARNING_RATE: f64 = 1e-4;

pub(crate) type Failed = Box<dyn Error>;

/// A tower with what its training needs.
struct Trained<T: Tower> {
    tower: T,
    gradients: Gradients,
    optimizer: AdamW,
}

impl<T: Tower> Trained<T> {
    fn new(tower: T) -> Self {
        let gradients = Gradients::zeros(tower.parameters());
        let optimizer = optimizer(tower.parameters());
        Self { tower, gradients, optimizer }
    }

    fn sink(&mut self, chunking: Chunking) -> Sink<'_, T> {
        self.gradients.clear();
        Sink { tower: &self.tower, chunking, gradients: &mut self.gradients }
    }

    fn update(&mut self) {
        let parameters = self.tower.parameters_mut();
        self.optimizer.step(parameters, &self.gradients, LEARNING_RATE, 1.0);
    }
}

fn optimizer(parameters: &[Parameter]) -> AdamW {
    let config = AdamWConfig {
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: 0.01,
        lr_multipliers: Vec::new(),
    };
    AdamW::new(config, parameters)
}

/// Both towers, the loss and its scale.
pub(crate) struct Training {
    text: Trained<TextTower>,
    image: Trained<ImageTower>,
    loss: InfoNce,
    scale: Parameter,
    scale_optimizer: AdamW,
    chunking: Chunking,
}

impl Training {
    /// A training whose chunks are of `size` inputs, of which `held` are kept until the loss is known.
    pub(crate) fn new(text: TextTower, image: ImageTower, chunking: Chunking) -> Self {
        let ScalarConfig { init, min, max, learned } = ScalarConfig::clip_log_scale();
        let scalar = LossScalar { name: "log_scale", init, min, max, learned };
        let scale = Parameter {
            name: "log_scale".to_owned(),
            shape: Vec::new(),
            value: vec![init].into(),
            decay: false,
            frozen: false,
        };
        let scale_optimizer = optimizer(std::slice::from_ref(&scale));
        let loss = InfoNce::new(Reduction::SymmetricMean, scalar);
        let (text, image) = (Trained::new(text), Trained::new(image));
        Self { text, image, loss, scale, scale_optimizer, chunking }
    }

    /// One step; returns the loss before it.
    pub(crate) fn step(&mut self, texts: &[&Vec<u32>], images: &[&Pixels]) -> Result<f64, Failed> {
        let task = Task {
            queries: Side::Texts(texts),
            documents: Side::Images(images),
            false_negatives: &FalseNegatives::none(),
            labels: Labels::None,
            loss: &self.loss,
            scalars: &self.scale.value,
            weight: 1.0,
        };
        let mut text = self.text.sink(self.chunking);
        let told = step(&mut text, &mut self.image.sink(self.chunking), &task)?;
        self.text.update();
        self.image.update();
        let scale = std::slice::from_mut(&mut self.scale);
        let mut gradients = Gradients::zeros(scale);
        gradients.iter_mut().for_each(|g| g[0] = told.d_scalars[0] as f32);
        self.scale_optimizer.step(scale, &gradients, LEARNING_RATE, 1.0);
        Ok(told.loss)
    }
}
