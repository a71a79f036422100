//! The parameters a spec calls for: names, shapes, and how they start.
//!
//! A tower declares its parameters once, while it is built; the same list is then filled from a seed
//! or from a file. The order of declaration is the order of the parameters for ever.

use conjoin_core::{Parameter, Seed, Values};
use conjoin_engine::{Bias, LinearParams, ParamId};
use rand::Rng;

use crate::spec::QkvBias;

/// Weight and bias of a layer norm.
pub(crate) type Norm = (ParamId, Option<ParamId>);

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

    /// A linear layer, weight `[n, k]`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        (n, k): (usize, usize),
        std: f32,
        bias: bool,
    ) -> LinearParams {
        let weight = self.declare(&format!("{name}.weight"), &[n, k], Init::Normal { std }, true);
        let bias = bias.then(|| Bias::All(self.bias(name, n)));
        LinearParams { weight, scale: None, bias }
    }

    /// Queries, keys and values as one layer, weight `[3 d, d]`.
    pub(crate) fn qkv(&mut self, name: &str, d: usize, std: f32, bias: QkvBias) -> LinearParams {
        let p = self.linear(name, (3 * d, d), std, false);
        let bias = match bias {
            QkvBias::All => Some(Bias::All(self.bias(name, 3 * d))),
            QkvBias::QueryValue => Some(Bias::Outer(self.bias(name, 2 * d))),
            QkvBias::None => None,
        };
        LinearParams { bias, ..p }
    }

    fn bias(&mut self, name: &str, n: usize) -> ParamId {
        self.declare(&format!("{name}.bias"), &[n], Init::Zeros, false)
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
        LinearParams { weight, scale: Some(scale), bias: Some(Bias::All(bias)) }
    }

    /// A layer norm of width `d`.
    pub(crate) fn norm(&mut self, name: &str, d: usize, bias: bool) -> Norm {
        let weight = self.declare(&format!("{name}.weight"), &[d], Init::Ones, false);
        (weight, bias.then(|| self.bias(name, d)))
    }

    /// How many numbers there are; the largest `usize` where that cannot tell.
    pub(crate) fn count(&self) -> usize {
        let product = |shape: &[usize]| shape.iter().fold(1_usize, |n, m| n.saturating_mul(*m));
        self.declared.iter().fold(0_usize, |n, p| n.saturating_add(product(&p.shape)))
    }

    /// Makes the parameters: each from `given` where that has it, else fresh from the seed. `prefix`
    /// comes before every name, so that names are unique in a model.
    pub(crate) fn fill<E>(
        self,
        prefix: &str,
        seed: Seed,
        given: impl Fn(&str, &[usize]) -> Result<Option<Values>, E>,
    ) -> Result<Vec<Parameter>, E> {
        let make = |p: Declared| {
            let value = match given(&p.name, &p.shape)? {
                Some(value) => value,
                None => fresh(p.shape.iter().product(), p.init, seed.stream(&p.name)).into(),
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
