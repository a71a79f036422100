//! The parameters a spec calls for: names, shapes, and how they start.
//!
//! A tower declares its parameters once, while it is built; the same list is then filled from a seed
//! or from a file. The order of declaration is the order of the parameters for ever.

use conjoin_core::{Parameter, Seed};
use conjoin_engine::{LinearParams, ParamId};
use rand::Rng;

/// How a fresh parameter is filled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    Zeros,
    Ones,
    /// A normal distribution around zero, cut at two deviations.
    Normal {
        std: f32,
    },
}

#[derive(Debug)]
struct Declared {
    name: String,
    shape: Vec<usize>,
    init: Init,
    decay: bool,
}

/// The growing list of declared parameters.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    declared: Vec<Declared>,
}

impl Layout {
    pub(crate) fn declare(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
        decay: bool,
    ) -> ParamId {
        self.declared.push(Declared { name: name.to_owned(), shape: shape.to_vec(), init, decay });
        ParamId(self.declared.len() - 1)
    }

    /// A linear layer with bias, weight `[n, k]`.
    pub(crate) fn linear(&mut self, name: &str, n: usize, k: usize, std: f32) -> LinearParams {
        let weight = self.declare(&format!("{name}.weight"), &[n, k], Init::Normal { std }, true);
        let bias = self.declare(&format!("{name}.bias"), &[n], Init::Zeros, false);
        LinearParams { weight, scale: None, bias: Some(bias) }
    }

    /// A linear layer without bias, weight `[n, k]`.
    pub(crate) fn projection(&mut self, name: &str, n: usize, k: usize) -> LinearParams {
        let std = (k as f32).powf(-0.5);
        let weight = self.declare(&format!("{name}.weight"), &[n, k], Init::Normal { std }, true);
        LinearParams { weight, scale: None, bias: None }
    }

    /// A convolution's weight with the scale and shift of its folded batch norm.
    pub(crate) fn convolution(
        &mut self,
        name: &str,
        shape: [usize; 2],
        channels: usize,
    ) -> LinearParams {
        let inputs = shape.iter().product::<usize>() / channels;
        let std = (2.0 / inputs as f32).sqrt();
        let weight = self.declare(&format!("{name}.weight"), &shape, Init::Normal { std }, true);
        let scale = self.declare(&format!("{name}.scale"), &[channels], Init::Ones, false);
        let bias = self.declare(&format!("{name}.bias"), &[channels], Init::Zeros, false);
        LinearParams { weight, scale: Some(scale), bias: Some(bias) }
    }

    /// A layer norm of width `d`: weight and bias.
    pub(crate) fn norm(&mut self, name: &str, d: usize) -> (ParamId, ParamId) {
        (
            self.declare(&format!("{name}.weight"), &[d], Init::Ones, false),
            self.declare(&format!("{name}.bias"), &[d], Init::Zeros, false),
        )
    }

    /// Makes the parameters: each from `given` where that has it, else fresh from the seed. `prefix`
    /// comes before every name, so that names are unique in a model.
    pub(crate) fn fill<E>(
        self,
        prefix: &str,
        seed: Seed,
        given: impl Fn(&str, &[usize]) -> Result<Option<Vec<f32>>, E>,
    ) -> Result<Vec<Parameter>, E> {
        let make = |p: Declared| {
            let value = match given(&p.name, &p.shape)? {
                Some(value) => value,
                None => fresh(p.shape.iter().product(), p.init, seed.stream(&p.name)),
            };
            let name = format!("{prefix}{}", p.name);
            Ok(Parameter { name, shape: p.shape, value, decay: p.decay, frozen: false })
        };
        self.declared.into_iter().map(make).collect()
    }
}

fn fresh(n: usize, init: Init, seed: Seed) -> Vec<f32> {
    match init {
        Init::Zeros => vec![0.0; n],
        Init::Ones => vec![1.0; n],
        Init::Normal { std } => {
            let mut rng = seed.rng();
            (0..n).map(|_| std * cut_normal(&mut rng)).collect()
        }
    }
}

/// A standard normal number within ±2, by Box and Muller's method with rejection.
fn cut_normal(rng: &mut impl Rng) -> f32 {
    loop {
        let (u, v): (f32, f32) = (rng.random(), rng.random());
        let x = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f32::consts::TAU * v).cos();
        if x.abs() <= 2.0 {
            return x;
        }
    }
}
