//! Low-rank adapters of a tower's matrices, by setting the matrices themselves.
//!
//! In:  a tower's parameters; after each backward pass its gradients. Out: adapters `A`, `B` to train, their
//!      gradients, and the tower's matrices set to `W0 + (alpha / rank) · B · A`.
//! Not here: the update (`adamw`), which other parameters are trained (`selection`).
//! Source: Hu et al. 2021, §4.1; initial values as PEFT's. Parity: `testdata/parity/lora`.
//!
//! The tower works with whole matrices and knows nothing of adapters, so this is exact for every tower:
//! of `dW'` it is `dA = s · Bᵀ · dW'` and `dB = s · dW' · Aᵀ`. `W'` is made from the kept `W0` each time and
//! does not drift. A step is: backward pass → [`Lora::project`] → update of [`Lora::adapters_mut`] →
//! [`Lora::merge_into`].

use std::ops::Range;

use conjoin_core::{Gradients, Parameter, Seed, Values};
use rand::Rng as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Faults, positive},
    error::ConfigError,
    matmul::{Left, PANEL, Panels, multiply_add},
    selection::some_names,
};

/// Rows of a matrix that one task works on. Part of the result: it fixes the order of sums.
const TASK_ROWS: usize = 128;

/// Settings of the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank `r` of every adapter, at least 1.
    pub rank: usize,
    /// `B · A` is scaled by `alpha / rank`; above 0.
    pub alpha: f64,
    /// Which matrices are adapted, at least one rule; of several that fit a name, the first counts.
    pub targets: Vec<LoraTarget>,
}

/// Which matrices are adapted: those whose name has this start and this end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraTarget {
    /// The start of the name (`text.layers.`); left out: any.
    #[serde(default)]
    pub prefix: String,
    /// The end of the name (`attention.qkv.weight`); left out: any.
    #[serde(default)]
    pub suffix: String,
    /// Matrices of equal height that lie in one below each other, 3 for queries, keys and values; each has
    /// an adapter of its own. At least 1.
    #[serde(default = "one")]
    pub blocks: usize,
    /// The blocks that are adapted, from 0 (`[0, 2]`: queries and values); empty: all.
    #[serde(default)]
    pub adapted: Vec<usize>,
}

fn one() -> usize {
    1
}

impl LoraTarget {
    fn fits(&self, parameter: &Parameter) -> bool {
        let name = &parameter.name;
        parameter.shape.len() == 2 && name.starts_with(&self.prefix) && name.ends_with(&self.suffix)
    }

    fn adapted(&self) -> Vec<usize> {
        if self.adapted.is_empty() { (0..self.blocks).collect() } else { self.adapted.clone() }
    }
}

impl LoraConfig {
    /// Passes, or tells every setting that cannot be; `key` is the path of this table.
    ///
    /// # Errors
    /// When a number is out of its range, there is no target, or one adapts no block.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        faults.need(&format!("{key}.rank"), self.rank, self.rank >= 1, "at least 1");
        faults.need(&format!("{key}.alpha"), self.alpha, positive(self.alpha), "a number above 0");
        let some = !self.targets.is_empty();
        faults.need(&format!("{key}.targets"), "empty", some, "a list of at least one rule");
        for (i, LoraTarget { blocks, adapted, .. }) in self.targets.iter().enumerate() {
            let key = format!("{key}.targets.{i}");
            faults.need(&format!("{key}.blocks"), blocks, *blocks >= 1, "at least 1");
            let fits =
                adapted.iter().all(|block| block < blocks) && adapted.is_sorted_by(|a, b| a < b);
            let expected = "rising numbers from 0, below `blocks`";
            faults.need(&format!("{key}.adapted"), format!("{adapted:?}"), fits, expected);
        }
        faults.done()
    }

    /// The rule that counts for a parameter.
    fn target(&self, parameter: &Parameter) -> Option<&LoraTarget> {
        self.targets.iter().find(|target| target.fits(parameter))
    }

    fn check_against(&self, key: &str, parameters: &[Parameter]) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        for (i, target) in self.targets.iter().enumerate() {
            let key = format!("{key}.targets.{i}");
            let found = format!("`{}…{}`", target.prefix, target.suffix);
            let fits = parameters.iter().any(|p| target.fits(p));
            let matrices = parameters.iter().filter(|p| p.shape.len() == 2);
            let names = some_names(matrices);
            let expected = format!("the start and the end of a matrix's name, such as {names}");
            faults.need(&key, found, fits, expected);
        }
        for parameter in parameters {
            let Some(target) = self.target(parameter) else { continue };
            let (blocks, n_rows) = (target.blocks, parameter.shape[0]);
            let found = format!("{blocks} for {n_rows} rows of `{}`", parameter.name);
            let fits = n_rows.is_multiple_of(blocks);
            faults.need(&format!("{key}.targets"), found, fits, "blocks that divide the rows");
        }
        faults.done()
    }
}

/// The adapters of a tower.
#[derive(Debug, Clone)]
pub struct Lora {
    rank: usize,
    scale: f32,
    matrices: Vec<Matrix>,
    adapters: Vec<Parameter>,
}

/// A matrix of the tower that is adapted.
#[derive(Debug, Clone)]
struct Matrix {
    /// Its place among the tower's parameters.
    index: usize,
    /// `W0`; shares its memory with whoever lends the tower's.
    base: Values,
    /// Columns.
    k: usize,
    blocks: Vec<Block>,
}

/// Rows of a matrix that have an adapter.
#[derive(Debug, Clone)]
struct Block {
    rows: Range<usize>,
    /// Place of `A` among the adapters; `B` follows.
    a: usize,
}

impl Lora {
    /// Adapters that change nothing yet: `A` uniform in `±1/√k` (PEFT's Kaiming), `B` zero. `key` is the
    /// configuration's path. Call it before the tower's matrices are changed.
    ///
    /// # Shapes
    /// For a block `[n, k]` of the matrix `W` there is `W.lora_a`, `[r, k]`, and `W.lora_b`, `[n, r]`; with
    /// several blocks `W.lora_a.0` and so on.
    ///
    /// # Errors
    /// When [`LoraConfig::check`] fails, a target fits no matrix, or blocks do not divide a matrix.
    pub fn new(
        config: &LoraConfig,
        key: &str,
        parameters: &[Parameter],
        seed: Seed,
    ) -> Result<Self, ConfigError> {
        config.check(key)?;
        config.check_against(key, parameters)?;
        let scale = (config.alpha / config.rank as f64) as f32;
        let mut lora =
            Self { rank: config.rank, scale, matrices: Vec::new(), adapters: Vec::new() };
        for (index, parameter) in parameters.iter().enumerate() {
            if let Some(target) = config.target(parameter) {
                lora.adapt(index, parameter, target, seed);
            }
        }
        Ok(lora)
    }

    fn adapt(&mut self, index: usize, parameter: &Parameter, target: &LoraTarget, seed: Seed) {
        let (k, n) = (parameter.shape[1], parameter.shape[0] / target.blocks);
        let mut blocks = Vec::new();
        for block in target.adapted() {
            let name = |part: &str| match target.blocks {
                1 => format!("{}.lora_{part}", parameter.name),
                _ => format!("{}.lora_{part}.{block}", parameter.name),
            };
            let adapter = |part: &str, shape: [usize; 2], value: Vec<f32>| Parameter {
                name: name(part),
                shape: shape.to_vec(),
                value: value.into(),
                decay: parameter.decay,
                frozen: false,
            };
            blocks.push(Block { rows: block * n..(block + 1) * n, a: self.adapters.len() });
            let a = uniform(self.rank * k, (k as f32).powf(-0.5), seed.stream(&name("a")));
            self.adapters.push(adapter("a", [self.rank, k], a));
            self.adapters.push(adapter("b", [n, self.rank], vec![0.0; n * self.rank]));
        }
        self.matrices.push(Matrix { index, base: parameter.value.clone(), k, blocks });
    }

    /// The adapters: `A`, then `B`, of each block, in the order of the tower's parameters.
    #[must_use]
    pub fn adapters(&self) -> &[Parameter] {
        &self.adapters
    }

    /// The adapters, writable; call [`Lora::merge_into`] after a change.
    pub fn adapters_mut(&mut self) -> &mut [Parameter] {
        &mut self.adapters
    }

    /// The places of the adapted matrices among the tower's parameters, rising, with their `W0`.
    pub fn bases(&self) -> impl Iterator<Item = (usize, &Values)> {
        self.matrices.iter().map(|matrix| (matrix.index, &matrix.base))
    }

    /// Marks the adapted matrices as not frozen, so that backward passes give their gradients.
    ///
    /// An optimiser of the tower's parameters that was made while they were frozen never moves them, so
    /// freeze them first, make it, and unfreeze them then.
    ///
    /// # Panics
    /// When the parameters are not those of [`Lora::new`].
    pub fn unfreeze(&self, parameters: &mut [Parameter]) {
        for matrix in &self.matrices {
            parameters[matrix.index].frozen = false;
        }
    }

    /// Adds the adapters' gradients for those of the tower.
    ///
    /// # Panics
    /// When the gradients are not those of the tower and of the adapters, or a matrix is frozen.
    pub fn project(&self, gradients: &Gradients, into: &mut Gradients) {
        let blocks: Vec<(&Matrix, &Block)> =
            self.matrices.iter().flat_map(|m| m.blocks.iter().map(move |b| (m, b))).collect();
        let project = |(matrix, block): &(&Matrix, &Block)| {
            let gradient = gradients.get(matrix.index);
            assert_eq!(gradient.len(), matrix.base.len(), "gradient of an adapted matrix");
            let rows = &gradient[block.rows.start * matrix.k..block.rows.end * matrix.k];
            self.block_gradients(matrix.k, block, rows)
        };
        let found: Vec<_> = blocks.par_iter().map(project).collect();
        for ((_, block), (d_a, d_b)) in blocks.iter().zip(found) {
            for (index, found) in [(block.a, d_a), (block.a + 1, d_b)] {
                let target = into.get_mut(index).expect("adapters are not frozen");
                target.iter_mut().zip(found).for_each(|(t, g)| *t += self.scale * g);
            }
        }
    }

    /// Takes the adapted matrices' own gradients away, so that a norm of the tower's gradients counts only
    /// what the tower's optimiser moves. For after [`Lora::project`].
    pub fn clear_adapted(&self, gradients: &mut Gradients) {
        for matrix in &self.matrices {
            if let Some(gradient) = gradients.get_mut(matrix.index) {
                gradient.fill(0.0);
            }
        }
    }

    /// `Bᵀ · G` and `G · Aᵀ` of a block's gradient `G`.
    ///
    /// # Shapes
    /// `gradient`: `[n, k]`, returns `[r, k]` and `[n, r]`
    fn block_gradients(&self, k: usize, block: &Block, gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let r = self.rank;
        let (a, b) = (&self.adapters[block.a].value, &self.adapters[block.a + 1].value);
        let a = Panels::from_columns(a, k); // Aᵀ: [k, r]
        let parts: Vec<_> = gradient
            .par_chunks(TASK_ROWS * k)
            .zip(b.par_chunks(TASK_ROWS * r))
            .map(|(g, b)| {
                let of_a =
                    product(Left { values: b, row: 1, step: r }, &Panels::from_rows(g, k), (r, k));
                let of_b = product(Left { values: g, row: k, step: 1 }, &a, (g.len() / k, r));
                (of_a, of_b)
            })
            .collect();
        let mut d_a = vec![0.0; r * k];
        let mut d_b = Vec::with_capacity(b.len());
        for (of_a, of_b) in parts {
            d_a.iter_mut().zip(of_a).for_each(|(d, x)| *d += x);
            d_b.extend(of_b);
        }
        (d_a, d_b)
    }

    /// Sets the adapted matrices to `W0 + (alpha / rank) · B · A`.
    ///
    /// # Panics
    /// When the parameters are not those of [`Lora::new`].
    pub fn merge_into(&self, parameters: &mut [Parameter]) {
        for matrix in &self.matrices {
            let target = &mut parameters[matrix.index].value;
            assert_eq!(target.len(), matrix.base.len(), "an adapted matrix");
            for block in &matrix.blocks {
                let (start, end) = (block.rows.start * matrix.k, block.rows.end * matrix.k);
                self.merge_block(matrix, block, &mut target[start..end]);
            }
        }
    }

    fn merge_block(&self, matrix: &Matrix, block: &Block, target: &mut [f32]) {
        let (k, r, first) = (matrix.k, self.rank, block.rows.start * matrix.k);
        let a = Panels::from_rows(&self.adapters[block.a].value, k); // [r, k]
        let b = &self.adapters[block.a + 1].value;
        let tasks = target.par_chunks_mut(TASK_ROWS * k).zip(b.par_chunks(TASK_ROWS * r));
        tasks.enumerate().for_each(|(task, (target, b))| {
            let delta = product(Left { values: b, row: r, step: 1 }, &a, (b.len() / r, k));
            matrix.base.read(first + task * TASK_ROWS * k, target);
            target.iter_mut().zip(delta).for_each(|(w, d)| *w += self.scale * d);
        });
    }
}

/// `a · b` without padding.
///
/// # Shapes
/// `a`: `[m, _]`, `b`: `[_, n]`, returns `[m, n]`
fn product(a: Left<'_>, b: &Panels, (m, n): (usize, usize)) -> Vec<f32> {
    let stride = n.next_multiple_of(PANEL);
    let mut padded = vec![0.0; m * stride];
    multiply_add(a, b, &mut padded, stride);
    if stride == n {
        return padded;
    }
    padded.chunks_exact(stride).flat_map(|row| &row[..n]).copied().collect()
}

fn uniform(n: usize, bound: f32, seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..n).map(|_| rng.random_range(-bound..bound)).collect()
}

#[cfg(test)]
mod tests;
