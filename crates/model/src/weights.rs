//! Name maps: where each of our parameters comes from in somebody else's file.
//!
//! In:  a [`NameMap`] made by a family, and the parameters a tower declares.
//! Out: the parameters, filled. A parameter the map does not know is made fresh.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use conjoin_core::{Half, Parameter, Seed, Values};

use crate::{ModelErrorKind, layout::Layout, weight_file::Weights};

/// How one of our parameters is made of tensors of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The tensor as it is.
    Same(String),
    /// Tensors one below the other (separate Q, K, V to our fused rows).
    Rows(Vec<String>),
    /// A table with a row per token, made of fewer: row `mapping[i]` of `table` times `factors[i]`
    /// (model2vec's quantised vocabularies).
    TokenRows {
        /// The rows.
        table: String,
        /// Which row each token has; its own where there is none.
        mapping: Option<String>,
        /// What each token's row is multiplied with.
        factors: Option<String>,
    },
    /// The rows of a matrix from this one on (positions that begin behind the padding's).
    RowsFrom(String, usize),
    /// These rows of a tensor (queries of fused rows).
    Span(String, Range<usize>),
    /// A matrix to which the product of two factors is added: `base.original + scaling · B A` with
    /// `base.0.lora_A` and `base.0.lora_B` of one of several tasks; for tables `A B`.
    Adapted {
        /// How the three names begin.
        base: String,
        /// Which task's factors.
        task: usize,
        /// What their product is multiplied by.
        scaling: f32,
    },
    /// The transpose of a matrix, leading dimensions merged: `[.., n]` to `[n, ..]`.
    Transposed(String),
    /// A depthwise kernel `[y, x, c, 1]` as taps `[y · x, c]`.
    Flattened(String),
    /// A PyTorch kernel `[n, c, y, x]` as rows ordered (y, x, c).
    PatchKernel(String),
    /// `γ / √(σ² + ε)` of a batch norm with this prefix.
    NormScale(String),
    /// `β − μ γ / √(σ² + ε)` of a batch norm with this prefix.
    NormShift(String),
}

/// Values for our parameters, by our names.
#[derive(Debug, Default)]
pub struct NameMap {
    values: BTreeMap<String, Tensor>,
}

/// Shape and values.
type Tensor = (Vec<usize>, Values);

/// Keras' MobileNet normalises with this ε.
pub(crate) const BATCH_NORM_EPS: f32 = 1e-3;
/// The tensors of a batch norm, behind its prefix and a slash.
pub(crate) const BATCH_NORM_PARTS: [&str; 4] = ["gamma", "beta", "moving_mean", "moving_variance"];

impl NameMap {
    /// No values: everything is made fresh.
    #[must_use]
    pub fn fresh() -> Self {
        Self::default()
    }

    /// Reads every mapped tensor. Tensors of the file that are neither mapped nor start with one of
    /// `unused` are an error: ignoring them could mean a wrong model.
    ///
    /// # Errors
    /// When a tensor is missing, unreadable or unknown.
    pub fn read<S: AsRef<str>>(
        weights: &Weights,
        sources: &[(String, Source)],
        unused: &[S],
    ) -> Result<Self, ModelErrorKind> {
        let mut values = BTreeMap::new();
        let mut used = BTreeSet::new();
        for (ours, source) in sources {
            values.insert(ours.clone(), source.read(weights)?);
            used.extend(source.names());
        }
        let unknown = |name: &&str| {
            !used.contains(*name) && !unused.iter().any(|start| name.starts_with(start.as_ref()))
        };
        let unknown: Vec<_> =
            weights.names().filter(unknown).map(ToOwned::to_owned).take(8).collect();
        if !unknown.is_empty() {
            return Err(ModelErrorKind::UnusedTensors(unknown));
        }
        Ok(Self { values })
    }

    /// Values of the parameters whose name starts with `prefix`, under their names without it.
    ///
    /// # Errors
    /// When a tensor is unreadable.
    pub fn with_prefix(weights: &Weights, prefix: &str) -> Result<Self, ModelErrorKind> {
        let ours = weights.names().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        let values = ours
            .map(|(name, ours)| Ok((ours.to_owned(), weights.tensor(name)?)))
            .collect::<Result<_, ModelErrorKind>>()?;
        Ok(Self { values })
    }

    /// Those whose name starts with `prefix`, under their names without it.
    #[must_use]
    pub fn part(&self, prefix: &str) -> Self {
        let part = self.values.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
        });
        Self { values: part.collect() }
    }

    /// The parameters of a tower, to build another of partly the same layout (a new head, say).
    #[must_use]
    pub fn from_parameters(parameters: &[Parameter]) -> Self {
        let values = parameters.iter().map(|p| {
            let (_, name) = p.name.split_once('.').unwrap_or(("", &p.name));
            (name.to_owned(), (p.shape.clone(), p.value.clone()))
        });
        Self { values: values.collect() }
    }

    /// Shape and values of one of our parameters.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.values.get(name).map(|(shape, values)| (shape.as_slice(), &**values))
    }
}

/// What becomes of parameters that a map does not have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Absent {
    /// They are made from this seed.
    Fresh(Seed),
    /// The map is of a whole model: they are an error.
    Missing,
}

/// Makes the declared parameters, from the map where it has them.
pub(crate) fn fill(
    layout: Layout,
    prefix: &str,
    map: &NameMap,
    absent: Absent,
) -> Result<Vec<Parameter>, ModelErrorKind> {
    let seed = match absent {
        Absent::Fresh(seed) => {
            check_count(&layout)?;
            seed
        }
        Absent::Missing => Seed(0),
    };
    layout.fill(prefix, seed, |name, expected| match map.values.get(name) {
        None if matches!(absent, Absent::Missing) => {
            Err(ModelErrorKind::MissingTensor(format!("{prefix}{name}")))
        }
        None => Ok(None),
        Some((shape, value)) if same_shape(shape, expected) => Ok(Some(value.clone())),
        Some((shape, _)) => Err(ModelErrorKind::Shape {
            name: name.to_owned(),
            found: shape.clone(),
            expected: expected.to_vec(),
        }),
    })
}

/// No model made here is larger.
const MAX_PARAMETERS: usize = 1 << 34;

fn check_count(layout: &Layout) -> Result<(), ModelErrorKind> {
    let found = layout.count();
    if found <= MAX_PARAMETERS {
        return Ok(());
    }
    let expected = format!("at most {MAX_PARAMETERS}");
    Err(ModelErrorKind::Spec { key: "number of parameters", found: found.to_string(), expected })
}

/// Whether two shapes are the same but for leading ones (`[1, 1, d]` is `[d]`).
fn same_shape(a: &[usize], b: &[usize]) -> bool {
    let core = |shape: &[usize]| shape.iter().copied().skip_while(|n| *n == 1).collect::<Vec<_>>();
    core(a) == core(b)
}

/// Numbers that were computed, in a form that can be shared without a copy.
fn computed((shape, values): (Vec<usize>, Vec<f32>)) -> Tensor {
    (shape, Values::lent(Arc::new(values)))
}

impl Source {
    /// The same with every name behind `prefix`.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        let put = |name: String| format!("{prefix}{name}");
        match self {
            Self::Same(name) => Self::Same(put(name)),
            Self::Rows(names) => Self::Rows(names.into_iter().map(put).collect()),
            Self::RowsFrom(name, first) => Self::RowsFrom(put(name), first),
            Self::Span(name, rows) => Self::Span(put(name), rows),
            Self::Adapted { base, task, scaling } => {
                Self::Adapted { base: put(base), task, scaling }
            }
            Self::TokenRows { table, mapping, factors } => Self::TokenRows {
                table: put(table),
                mapping: mapping.map(put),
                factors: factors.map(put),
            },
            Self::Transposed(name) => Self::Transposed(put(name)),
            Self::Flattened(name) => Self::Flattened(put(name)),
            Self::PatchKernel(name) => Self::PatchKernel(put(name)),
            Self::NormScale(name) => Self::NormScale(put(name)),
            Self::NormShift(name) => Self::NormShift(put(name)),
        }
    }

    /// The tensors it reads.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Same(name)
            | Self::RowsFrom(name, _)
            | Self::Span(name, _)
            | Self::Transposed(name)
            | Self::Flattened(name)
            | Self::PatchKernel(name) => vec![name.clone()],
            Self::Rows(names) => names.clone(),
            Self::Adapted { base, .. } => {
                ["original", "0.lora_A", "0.lora_B"].map(|part| format!("{base}.{part}")).to_vec()
            }
            Self::TokenRows { table, mapping, factors } => {
                [Some(table), mapping.as_ref(), factors.as_ref()]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect()
            }
            Self::NormScale(prefix) | Self::NormShift(prefix) => {
                BATCH_NORM_PARTS.map(|part| format!("{prefix}/{part}")).to_vec()
            }
        }
    }

    fn read(&self, weights: &Weights) -> Result<Tensor, ModelErrorKind> {
        let tensor = |name: &String| weights.tensor(name);
        Ok(match self {
            Self::Same(name) => tensor(name)?,
            Self::Rows(names) => stack(weights, names)?,
            Self::RowsFrom(name, first) => computed(rows_from(tensor(name)?, *first)),
            Self::Span(name, rows) => computed(span(name, tensor(name)?, rows)?),
            Self::Adapted { base, task, scaling } => {
                computed(adapted(weights, base, *task, *scaling)?)
            }
            Self::TokenRows { table, mapping, factors } => {
                let mapping = mapping.as_deref().map(|name| (name, weights.indices(name)));
                let factors = factors.as_ref().map(tensor).transpose()?;
                token_rows(tensor(table)?, mapping, factors)?
            }
            Self::Transposed(name) => computed(transpose(&tensor(name)?)),
            Self::Flattened(name) => flatten(tensor(name)?),
            Self::PatchKernel(name) => computed(patch_kernel(name, tensor(name)?)?),
            Self::NormScale(prefix) => computed(vector(folded_norm(weights, prefix)?.0)),
            Self::NormShift(prefix) => computed(vector(folded_norm(weights, prefix)?.1)),
        })
    }
}

fn vector(values: Vec<f32>) -> (Vec<usize>, Vec<f32>) {
    (vec![values.len()], values)
}

fn stack(file: &Weights, names: &[String]) -> Result<Tensor, ModelErrorKind> {
    let (mut shape, mut parts) = (Vec::new(), Vec::with_capacity(names.len()));
    for name in names {
        let (found, part) = file.tensor(name)?;
        match (shape.split_first_mut(), found.split_first()) {
            (None, _) => shape = found,
            (Some((rows, rest)), Some((more, found_rest))) if rest == found_rest => *rows += more,
            (Some(_), _) => {
                return Err(ModelErrorKind::Shape { name: name.clone(), found, expected: shape });
            }
        }
        parts.push(part);
    }
    Ok((shape, joined(&parts)))
}

/// Numbers one behind the other, of 16 bits if all are of the same ones.
fn joined(parts: &[Values]) -> Values {
    let halves: Option<Vec<(&[u16], Half)>> = parts.iter().map(Values::halves).collect();
    let halves = halves.unwrap_or_default();
    match halves.first() {
        Some((_, half)) if halves.iter().all(|(_, other)| other == half) => {
            let words: Vec<&[u16]> = halves.iter().map(|(words, _)| *words).collect();
            Values::lent_halves(Arc::new(words.concat()), *half)
        }
        Some(_) | None => {
            let parts: Vec<_> = parts.iter().map(|part| part.widened(0..part.len())).collect();
            Values::lent(Arc::new(parts.concat()))
        }
    }
}

/// See [`Source::TokenRows`].
fn token_rows(
    (shape, rows): Tensor,
    mapping: Option<(&str, Result<Vec<usize>, ModelErrorKind>)>,
    factors: Option<Tensor>,
) -> Result<Tensor, ModelErrorKind> {
    let n_rows = shape.first().copied().unwrap_or(0);
    let width = rows.len() / n_rows.max(1);
    let mapping = match mapping {
        None if factors.is_none() => return Ok((shape, rows)),
        None => (0..n_rows).collect(),
        Some((name, mapping)) => {
            let mapping = mapping?;
            if let Some(row) = mapping.iter().find(|row| **row >= n_rows) {
                let (name, found) = (name.to_owned(), format!("row {row} of {n_rows}"));
                return Err(ModelErrorKind::Indices { name, found });
            }
            mapping
        }
    };
    let factors = match factors {
        None => vec![1.0; mapping.len()],
        Some((shape, _)) if shape != [mapping.len()] => {
            let (name, expected) = ("weights".to_owned(), vec![mapping.len()]);
            return Err(ModelErrorKind::Shape { name, found: shape, expected });
        }
        Some((_, factors)) => factors.to_vec(),
    };
    let tokens = mapping.iter().zip(&factors);
    let values: Vec<f32> = tokens
        .flat_map(|(row, factor)| {
            rows[row * width..(row + 1) * width].iter().map(move |v| v * factor)
        })
        .collect();
    Ok(computed((vec![mapping.len(), width], values)))
}

fn rows_from((mut shape, x): Tensor, first: usize) -> (Vec<usize>, Vec<f32>) {
    let rows = shape.first().copied().unwrap_or(0);
    let width = x.len() / rows.max(1);
    if let Some(rows) = shape.first_mut() {
        *rows = rows.saturating_sub(first);
    }
    (shape, x[(first * width).min(x.len())..].to_vec())
}

fn span(
    name: &str,
    (mut shape, x): Tensor,
    rows: &Range<usize>,
) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
    let n = shape.first().copied().unwrap_or(0);
    if n < rows.end {
        let expected = vec![rows.end];
        return Err(ModelErrorKind::Shape { name: name.to_owned(), found: shape, expected });
    }
    let width = x.len() / n.max(1);
    shape[0] = rows.len();
    Ok((shape, x[rows.start * width..rows.end * width].to_vec()))
}

/// One task's part of a LoRA factor, `[rows, cols]`.
struct Factor {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl Factor {
    fn read(weights: &Weights, name: &str, task: usize) -> Result<Self, ModelErrorKind> {
        let (shape, values) = weights.tensor(name)?;
        match shape.as_slice() {
            &[tasks, rows, cols] if task < tasks => {
                let values = values[task * rows * cols..][..rows * cols].to_vec();
                Ok(Self { rows, cols, values })
            }
            _ => {
                let (name, expected) = (name.to_owned(), vec![task + 1, 0, 0]);
                Err(ModelErrorKind::Shape { name, found: shape, expected })
            }
        }
    }
}

fn adapted(
    weights: &Weights,
    base: &str,
    task: usize,
    scaling: f32,
) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
    let (shape, original) = weights.tensor(&format!("{base}.original"))?;
    let a_name = format!("{base}.0.lora_A");
    let a = Factor::read(weights, &a_name, task)?;
    let b = Factor::read(weights, &format!("{base}.0.lora_B"), task)?;
    let (left, right) = if Some(&a.cols) == shape.last() { (b, a) } else { (a, b) };
    if shape != [left.rows, right.cols] || left.cols != right.rows {
        let found = vec![left.rows, left.cols, right.rows, right.cols];
        return Err(ModelErrorKind::Shape { name: a_name, found, expected: shape });
    }
    let mut merged = original.to_vec();
    let rows = merged.chunks_exact_mut(right.cols.max(1));
    for (row, factors) in rows.zip(left.values.chunks_exact(left.cols.max(1))) {
        for (factor, from) in factors.iter().zip(right.values.chunks_exact(right.cols.max(1))) {
            row.iter_mut().zip(from).for_each(|(to, x)| *to += scaling * factor * x);
        }
    }
    Ok((shape, merged))
}

/// `[a, …, n]` to `[n, a · …]`.
fn transpose((shape, x): &Tensor) -> (Vec<usize>, Vec<f32>) {
    let n = shape.last().copied().unwrap_or(1);
    let k = x.len() / n.max(1);
    let values = (0..n).flat_map(|j| (0..k).map(move |i| x[i * n + j])).collect();
    (vec![n, k], values)
}

/// `[y, x, c, 1]` to `[y · x, c]`.
fn flatten((shape, x): Tensor) -> Tensor {
    let c = shape.get(2).copied().unwrap_or(1).max(1);
    (vec![x.len() / c, c], x)
}

/// `[n, c, y, x]` to `[n, y · x · c]`.
fn patch_kernel(name: &str, (shape, x): Tensor) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
    let &[n, c, h, w] = shape.as_slice() else {
        let (name, expected) = (name.to_owned(), vec![0, 3, 0, 0]);
        return Err(ModelErrorKind::Shape { name, found: shape, expected });
    };
    let area = h * w;
    let at = |i: usize, at: usize, channel: usize| x[(i * c + channel) * area + at];
    let rows = (0..n).flat_map(|i| (0..area).map(move |pixel| (i, pixel)));
    let values = rows.flat_map(|(i, p)| (0..c).map(move |channel| (i, p, channel)));
    Ok((vec![n, area * c], values.map(|(i, p, channel)| at(i, p, channel)).collect()))
}

fn folded_norm(file: &Weights, prefix: &str) -> Result<(Vec<f32>, Vec<f32>), ModelErrorKind> {
    let part = |part: &str| file.tensor(&format!("{prefix}/{part}")).map(|(_, values)| values);
    let (gamma, beta) = (part("gamma")?, part("beta")?);
    let (mean, variance) = (part("moving_mean")?, part("moving_variance")?);
    let scale: Vec<f32> =
        gamma.iter().zip(&*variance).map(|(g, v)| g / (v + BATCH_NORM_EPS).sqrt()).collect();
    let shift = beta.iter().zip(&*mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    Ok((scale, shift))
}
