//! Name maps: where each of our parameters comes from in somebody else's file.
//!
//! In:  a [`NameMap`] made by a family, and the parameters a tower declares.
//! Out: the parameters, filled. A parameter the map does not know is made fresh.

use std::collections::{BTreeMap, BTreeSet};

use conjoin_core::{Parameter, Seed};

use crate::{ModelErrorKind, layout::Layout, weight_file::WeightReader};

/// How one of our parameters is made of tensors of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The tensor as it is.
    Same(String),
    /// Tensors one below the other (separate Q, K, V to our fused rows).
    Rows(Vec<String>),
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
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// Keras' MobileNet normalises with this ε.
const BATCH_NORM_EPS: f32 = 1e-3;

impl NameMap {
    /// No values: everything is made fresh.
    #[must_use]
    pub fn fresh() -> Self {
        Self::default()
    }

    /// Reads every mapped tensor. Tensors of the file that are neither mapped nor start with one of
    /// `ignored` are an error: ignoring them could mean a wrong model.
    ///
    /// # Errors
    /// When a tensor is missing, unreadable or unused.
    pub fn read(
        file: &WeightReader<'_>,
        sources: &[(String, Source)],
        ignored: &[&str],
    ) -> Result<Self, ModelErrorKind> {
        let mut values = BTreeMap::new();
        let mut used = BTreeSet::new();
        for (ours, source) in sources {
            values.insert(ours.clone(), source.read(file)?);
            used.extend(source.names());
        }
        let unused = |name: &String| {
            !used.contains(name) && !ignored.iter().any(|start| name.starts_with(start))
        };
        let unused: Vec<_> = file.names().into_iter().filter(unused).take(8).collect();
        if !unused.is_empty() {
            return Err(ModelErrorKind::UnusedTensors(unused));
        }
        Ok(Self { values })
    }

    /// Values of the parameters whose name starts with `prefix`, under their names without it.
    ///
    /// # Errors
    /// When a tensor is unreadable.
    pub fn with_prefix(file: &WeightReader<'_>, prefix: &str) -> Result<Self, ModelErrorKind> {
        let names = file.names();
        let ours = names.iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        let values = ours
            .map(|(name, ours)| Ok((ours.to_owned(), file.tensor(name)?)))
            .collect::<Result<_, ModelErrorKind>>()?;
        Ok(Self { values })
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
        self.values.get(name).map(|(shape, values)| (shape.as_slice(), values.as_slice()))
    }

    /// The first of `names` that has no value.
    pub(crate) fn missing<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        names.find(|name| !self.values.contains_key(*name))
    }
}

/// Makes the declared parameters, from the map where it has them.
pub(crate) fn fill(
    layout: Layout,
    prefix: &str,
    map: &NameMap,
    seed: Seed,
) -> Result<Vec<Parameter>, ModelErrorKind> {
    layout.fill(prefix, seed, |name, expected| match map.values.get(name) {
        None => Ok(None),
        Some((shape, value)) if shape == expected => Ok(Some(value.clone())),
        Some((shape, _)) => Err(ModelErrorKind::Shape {
            name: name.to_owned(),
            found: shape.clone(),
            expected: expected.to_vec(),
        }),
    })
}

impl Source {
    /// The tensors it reads.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Same(name)
            | Self::Transposed(name)
            | Self::Flattened(name)
            | Self::PatchKernel(name) => vec![name.clone()],
            Self::Rows(names) => names.clone(),
            Self::NormScale(prefix) | Self::NormShift(prefix) => {
                ["gamma", "beta", "moving_mean", "moving_variance"]
                    .map(|part| format!("{prefix}/{part}"))
                    .to_vec()
            }
        }
    }

    fn read(&self, file: &WeightReader<'_>) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
        match self {
            Self::Same(name) => file.tensor(name),
            Self::Rows(names) => stack(file, names),
            Self::Transposed(name) => file.tensor(name).map(|(shape, x)| transpose(&shape, &x)),
            Self::Flattened(name) => file.tensor(name).map(|(shape, x)| flatten(&shape, x)),
            Self::PatchKernel(name) => patch_kernel(name, file.tensor(name)?),
            Self::NormScale(prefix) => folded_norm(file, prefix).map(|(scale, _)| vector(scale)),
            Self::NormShift(prefix) => folded_norm(file, prefix).map(|(_, shift)| vector(shift)),
        }
    }
}

fn vector(values: Vec<f32>) -> (Vec<usize>, Vec<f32>) {
    (vec![values.len()], values)
}

fn stack(
    file: &WeightReader<'_>,
    names: &[String],
) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
    let (mut shape, mut values) = (Vec::new(), Vec::new());
    for name in names {
        let (found, part) = file.tensor(name)?;
        match (shape.split_first_mut(), found.split_first()) {
            (None, _) => shape = found,
            (Some((rows, rest)), Some((more, found_rest))) if rest == found_rest => *rows += more,
            (Some(_), _) => {
                return Err(ModelErrorKind::Shape { name: name.clone(), found, expected: shape });
            }
        }
        values.extend(part);
    }
    Ok((shape, values))
}

/// `[a, …, n]` to `[n, a · …]`.
fn transpose(shape: &[usize], x: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let n = shape.last().copied().unwrap_or(1);
    let k = x.len() / n.max(1);
    let values = (0..n).flat_map(|j| (0..k).map(move |i| x[i * n + j])).collect();
    (vec![n, k], values)
}

/// `[y, x, c, 1]` to `[y · x, c]`.
fn flatten(shape: &[usize], x: Vec<f32>) -> (Vec<usize>, Vec<f32>) {
    let c = shape.get(2).copied().unwrap_or(1).max(1);
    (vec![x.len() / c, c], x)
}

/// `[n, c, y, x]` to `[n, y · x · c]`.
fn patch_kernel(
    name: &str,
    (shape, x): (Vec<usize>, Vec<f32>),
) -> Result<(Vec<usize>, Vec<f32>), ModelErrorKind> {
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

fn folded_norm(
    file: &WeightReader<'_>,
    prefix: &str,
) -> Result<(Vec<f32>, Vec<f32>), ModelErrorKind> {
    let part = |part: &str| file.tensor(&format!("{prefix}/{part}")).map(|(_, values)| values);
    let (gamma, beta) = (part("gamma")?, part("beta")?);
    let (mean, variance) = (part("moving_mean")?, part("moving_variance")?);
    let scale: Vec<f32> =
        gamma.iter().zip(&variance).map(|(g, v)| g / (v + BATCH_NORM_EPS).sqrt()).collect();
    let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    Ok((scale, shift))
}
