//! Linear layer with what stands before it and its epilogue: `y = act(before(x) · (s ∘ W)ᵀ + b)`.
//!
//! The optional per-row scale `s` is a folded batch norm: the product runs on `s ∘ W`, so it costs
//! nothing per sample, while training still sees `W` at its own magnitude.
//! What a pass that records makes of the rows before the product is kept as the product read it, for the
//! gradient of the weight; the backward stands in `backward`.

mod backward;

use std::{borrow::Cow, ops::Range};

use conjoin_core::Values;

use crate::{
    Activation, Exec, ParamId, Precision, Tensor,
    gemm::{Epilogue, Left, Level, MatRef, PackedMatrix, Product, Row, convert},
    ops::{gate::gate_row, layer_norm::normalize_row},
    simd,
    tape::Backward,
    tensor::Buffer,
};
pub(crate) use backward::activation_backward;
use backward::{Activated, Linear, LinearOnto};

/// The parameters of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct LinearParams {
    /// `[n, k]`, as PyTorch stores it.
    pub weight: ParamId,
    /// `[n]`: a factor per output, from a folded batch norm.
    pub scale: Option<ParamId>,
    /// What is added to the outputs.
    pub bias: Option<Bias>,
}

/// What a linear layer adds to its outputs.
#[derive(Debug, Clone, Copy)]
pub enum Bias {
    /// `[n]`: a number per output.
    All(ParamId),
    /// `[2 n / 3]`: for the first and the last third of the outputs (queries and values, where keys
    /// have no bias).
    Outer(ParamId),
}

impl Bias {
    pub(crate) fn id(self) -> ParamId {
        match self {
            Self::All(id) | Self::Outer(id) => id,
        }
    }

    /// The number per output.
    pub(crate) fn whole(self, values: &[f32], n: usize) -> Cow<'_, [f32]> {
        match self {
            Self::All(_) => values.into(),
            Self::Outer(_) => {
                let (first, last) = values.split_at(n / 3);
                [first, &vec![0.0; n / 3], last].concat().into()
            }
        }
    }

    /// Adds a gradient per output to the gradient of the bias.
    fn give(self, gradient: &mut [f32], sum: &[f32]) {
        match self {
            Self::All(_) => simd::add_assign(gradient, sum),
            Self::Outer(_) => {
                let third = sum.len() / 3;
                simd::add_assign(&mut gradient[..third], &sum[..third]);
                simd::add_assign(&mut gradient[third..], &sum[2 * third..]);
            }
        }
    }
}

impl<'a> Onto<'a> {
    /// The sum with a residual.
    #[must_use]
    pub fn plain(residual: &'a Tensor) -> Self {
        Self { residual, factors: None }
    }
}

impl RowNorm {
    pub(crate) fn ids(self) -> impl Iterator<Item = ParamId> {
        [Some(self.weight), self.bias].into_iter().flatten()
    }
}

/// The parameters of a linear layer and of what stands before it.
fn ids_of(before: Before, p: LinearParams) -> Vec<ParamId> {
    let mut ids: Vec<_> = p.ids().collect();
    if let Before::Norm(norm) = before {
        ids.extend(norm.ids());
    }
    ids
}

impl LinearParams {
    pub(crate) fn ids(self) -> impl Iterator<Item = ParamId> {
        [Some(self.weight), self.scale, self.bias.map(Bias::id)].into_iter().flatten()
    }
}

/// A layer norm of rows.
#[derive(Debug, Clone, Copy)]
pub struct RowNorm {
    /// `γ`, `[k]`
    pub weight: ParamId,
    /// `β`, `[k]`
    pub bias: Option<ParamId>,
    /// Added to the variance.
    pub eps: f32,
}

/// What is made of each row of the input before a linear layer reads it.
#[derive(Debug, Clone, Copy, Default)]
pub enum Before {
    /// It is read as it is.
    #[default]
    Nothing,
    /// It is normalised.
    Norm(RowNorm),
    /// It is activated.
    Activation(Activation),
    /// Its second half is multiplied by the activated first half, as [`Exec::gate`] does.
    Gate(Activation),
}

/// What a linear layer's result is added to.
#[derive(Debug, Clone, Copy)]
pub struct Onto<'a> {
    /// `[m, n]`
    pub residual: &'a Tensor,
    /// `[n]`: what the result is multiplied with before.
    pub factors: Option<ParamId>,
}

impl Exec<'_> {
    /// Applies a linear layer and an activation.
    ///
    /// # Shapes
    /// `x`: `[m, k]`, result: `[m, n]`.
    ///
    /// # Panics
    /// When the weight has not whole rows of `k` values.
    #[must_use]
    pub fn linear(&self, x: &Tensor, p: LinearParams, activation: Activation) -> Tensor {
        self.linear_behind(Before::Nothing, x, p, activation)
    }

    /// A linear layer with what stands before it: `act(before(x) · Wᵀ + b)`.
    ///
    /// # Shapes
    /// `x`: `[m, k]` (`[m, 2 k]` before a gate), result: `[m, n]`.
    ///
    /// # Panics
    /// As [`Exec::linear`].
    #[must_use]
    pub fn linear_behind(
        &self,
        before: Before,
        x: &Tensor,
        p: LinearParams,
        activation: Activation,
    ) -> Tensor {
        let records = self.records(&[x], &ids_of(before, p));
        if records && !activation.derivative_from_output() {
            // The derivative is of z, so the product leaves z.
            let z = self.linear_behind(before, x, p, Activation::Identity);
            return self.activate(&z, activation);
        }
        let after = After { activation, ..After::NOTHING };
        let (y, read) = self.product(x, before, (p, None), &after);
        let y = Tensor::new(x.rows(), y.as_ref().len() / x.rows().max(1), y, None);
        let backward = records.then(|| {
            let kept = (activation != Activation::Identity).then(|| (activation, y.clone()));
            let n = y.cols();
            Box::new(Linear { x: x.clone(), before, read, kept, p, n }) as Box<dyn Backward>
        });
        self.record(y, backward)
    }

    /// The first of two layers with an activation between them: what the second one is given, and what must
    /// stand before it. A pass that records leaves the activation to the second, so that the numbers before it,
    /// of which the derivative is, are written and the others are not.
    ///
    /// # Shapes
    /// As [`Exec::linear_behind`].
    ///
    /// # Panics
    /// As [`Exec::linear`].
    #[must_use]
    pub fn linear_first(
        &self,
        before: Before,
        x: &Tensor,
        p: LinearParams,
        activation: Activation,
    ) -> (Tensor, Before) {
        if self.is_recording() && !activation.derivative_from_output() {
            let z = self.linear_behind(before, x, p, Activation::Identity);
            (z, Before::Activation(activation))
        } else {
            (self.linear_behind(before, x, p, activation), Before::Nothing)
        }
    }

    /// `act(z)`
    pub(crate) fn activate(&self, z: &Tensor, activation: Activation) -> Tensor {
        let y = activated(z, activation, self.take(z.values().len()));
        let backward = self
            .records(&[z], &[])
            .then(|| Box::new(Activated { z: z.clone(), activation }) as Box<dyn Backward>);
        self.output((z.rows(), z.cols()), y, backward)
    }

    /// Some of the outputs of [`Exec::linear_behind`]. It keeps nothing for a backward.
    ///
    /// # Shapes
    /// `x`: `[m, k]`, result: `[m, outputs.len()]`.
    ///
    /// # Panics
    /// When there are no such outputs, or the pass records.
    #[must_use]
    pub fn linear_part(
        &self,
        before: Before,
        x: &Tensor,
        p: LinearParams,
        outputs: Range<usize>,
    ) -> Tensor {
        assert!(!self.is_recording(), "parts of layers are for inference");
        let shape = (x.rows(), outputs.len());
        let (y, _) = self.product(x, before, (p, Some(outputs)), &After::NOTHING);
        self.output(shape, y, None)
    }

    /// A linear layer with what stands before it, added to a residual: `r + γ ∘ (before(x) · Wᵀ + b)`.
    ///
    /// # Shapes
    /// `x`: `[m, k]` (`[m, 2 k]` before a gate); residual, result: `[m, n]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    pub fn linear_onto(
        &self,
        onto: Onto<'_>,
        before: Before,
        x: &Tensor,
        p: LinearParams,
    ) -> Tensor {
        let Onto { residual, factors } = onto;
        if let (true, Some(factors)) = (self.is_recording(), factors) {
            let branch = self.linear_behind(before, x, p, Activation::Identity);
            return self.add(residual, &self.scale_columns(&branch, factors));
        }
        let after = After { onto: Some(onto), ..After::NOTHING };
        let (y, read) = self.product(x, before, (p, None), &after);
        let mut ids = ids_of(before, p);
        ids.extend(factors);
        let backward = self.records(&[residual, x], &ids).then(|| {
            let n = residual.cols();
            let branch = Linear { x: x.clone(), before, read, kept: None, p, n };
            Box::new(LinearOnto { residual: residual.node(), branch }) as Box<dyn Backward>
        });
        self.output((x.rows(), residual.cols()), y, backward)
    }

    /// `r + γ ∘ act(before(x) · (s ∘ W)ᵀ + b)`, and the words that `before` made, where it made some and
    /// the pass records.
    fn product(
        &self,
        x: &Tensor,
        before: Before,
        (p, outputs): (LinearParams, Option<Range<usize>>),
        after: &After<'_>,
    ) -> (Buffer, Option<Buffer>) {
        let (m, k) = (x.rows(), before.width(x.cols()));
        let weight = self.values(p.weight);
        assert!(k > 0 && weight.len().is_multiple_of(k), "rows of {k} weights");
        let all = weight.len() / k;
        let bias = p.bias.map(|b| b.whole(self.value(b.id()), all));
        let wanted = outputs.clone().unwrap_or(0..all);
        let n = wanted.len();
        let factors = p.scale.map(|s| self.value(s));
        let weight = || scaled(weight, factors, k, wanted.clone());
        let right = self.packed((p.weight, outputs), weight, (n, k));
        let bias = bias.as_ref().map(|bias| &bias[wanted.clone()]);
        let epilogue = Epilogue {
            bias,
            activation: after.activation,
            derivative: None,
            factors: after.onto.and_then(|onto| onto.factors).map(|f| self.value(f)),
            residual: after.onto.map(|onto| onto.residual.values()),
            add: false,
        };
        assert!(epilogue.residual.is_none_or(|r| r.len() == m * n), "a residual of [{m}, {n}]");
        let (y, words) = self.product_of(x, before, &right, epilogue);
        if let Some(trial) = self.trial() {
            let weight = weight();
            let right = MatRef::new(&weight, n, k).transposed();
            let right = PackedMatrix::pack(right, trial.precision, self.pool());
            let (tried, _) = self.product_of(x, before, &right, epilogue);
            trial.add(p.weight, y.as_ref(), tried.as_ref());
        }
        let made = self.is_recording() && !matches!(before, Before::Nothing);
        (y, words.filter(|_| made))
    }

    /// A product with a packed weight, and the words that it read, if not `x` itself.
    fn product_of(
        &self,
        x: &Tensor,
        before: Before,
        right: &PackedMatrix,
        epilogue: Epilogue<'_>,
    ) -> (Buffer, Option<Buffer>) {
        let (m, k) = (x.rows(), before.width(x.cols()));
        let mut y = self.take(m * right.n);
        let mut run = |left: Left<'_>| Product { left, right, epilogue }.run(y.as_mut());
        let words = match (right.precision, before) {
            (Precision::F32, Before::Nothing) => {
                run(Left::in_place(x.values(), m, k));
                None
            }
            (precision, _) => {
                let mut words = self.take(m * precision.words(k));
                let mut levels = self.take(if precision == Precision::Int8 { 2 * m } else { 0 });
                let levels: &mut [Level] = bytemuck::cast_slice_mut(levels.as_mut());
                self.convert_rows((words.as_mut(), levels), x, before, precision);
                run(Left::words(words.as_ref(), m, levels));
                Some(words)
            }
        };
        (y, words)
    }

    /// Writes the rows of `x`, or what is made of them, as words.
    fn convert_rows(
        &self,
        (words, levels): (&mut [f32], &mut [Level]),
        x: &Tensor,
        before: Before,
        precision: Precision,
    ) {
        let (cols, values) = (x.cols(), x.values());
        let row = |i: usize| &values[i * cols..(i + 1) * cols];
        let k = before.width(cols);
        match before {
            Before::Nothing => convert(words, levels, k, precision, |i, _| Row::Given(row(i))),
            Before::Norm(norm) => {
                let affine = self.affine(norm);
                convert(words, levels, k, precision, |i, made| {
                    normalize_row(made, row(i), affine, norm.eps);
                    Row::Made(made)
                });
            }
            Before::Activation(activation) => convert(words, levels, k, precision, |i, made| {
                made.copy_from_slice(row(i));
                activation.apply(made);
                Row::Made(made)
            }),
            Before::Gate(activation) => convert(words, levels, k, precision, |i, made| {
                gate_row(made, row(i), activation);
                Row::Made(made)
            }),
        }
    }
}

impl Before {
    /// Numbers in a row that the product reads, of those in the input's.
    fn width(self, cols: usize) -> usize {
        match self {
            Self::Nothing | Self::Norm(_) | Self::Activation(_) => cols,
            Self::Gate(_) => cols / 2,
        }
    }
}

/// What becomes of a product.
struct After<'a> {
    activation: Activation,
    onto: Option<Onto<'a>>,
}

impl After<'_> {
    const NOTHING: Self = Self { activation: Activation::Identity, onto: None };
}

/// `act(z)`, in the memory `y`.
fn activated(z: &Tensor, activation: Activation, mut y: Buffer) -> Buffer {
    let z = z.values();
    simd::for_row_blocks(
        y.as_mut(),
        1,
        #[inline(always)]
        |first, y| {
            y.copy_from_slice(&z[first..first + y.len()]);
            activation.apply(y);
        },
    );
    y
}

/// Some rows of `s ∘ W`, a factor per row of length `k`; of `W` itself where there are none.
fn scaled<'w>(
    weight: &'w Values,
    factors: Option<&[f32]>,
    k: usize,
    rows: Range<usize>,
) -> Cow<'w, [f32]> {
    let mut some = weight.widened(rows.start * k..rows.end * k);
    if let Some(factors) = factors {
        for (row, factor) in some.to_mut().chunks_exact_mut(k).zip(&factors[rows]) {
            for w in row.iter_mut() {
                *w *= factor;
            }
        }
    }
    some
}
