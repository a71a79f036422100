//! Linear layer with its epilogue: `y = act(x · (s ∘ W)ᵀ + b)`.
//!
//! The optional per-row scale `s` is a folded batch norm: the product runs on `s ∘ W`, so it costs
//! nothing per sample, while training still sees `W` at its own magnitude.
//! Backward, with `g = dy ∘ act'`: `dW = s ∘ (gᵀ x)`, `ds = Σₖ W ∘ (gᵀ x)`, `db = Σₘ g`,
//! `dx = g · (s ∘ W)`.

use std::{borrow::Cow, ops::Range};

use conjoin_core::Values;

use crate::{
    Activation, Exec, ParamId, Precision, Tensor,
    gemm::{
        Epilogue, Left, Level, MatRef, PackedMatrix, Product, Row, convert, multiply_transposed,
    },
    ops::{gate::gate_row, layer_norm::normalize_row},
    simd,
    tape::{Backward, BackwardPass, NodeId},
    tensor::Buffer,
    vectorize,
};

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
        let records = self.records(&[x], &p.ids().collect::<Vec<_>>());
        // Where the derivative is of z, the product leaves z and the activation goes from z to y.
        let keep_z = records && !activation.derivative_from_output();
        let now = if keep_z { Activation::Identity } else { activation };
        let y = self.product(
            x,
            Before::Nothing,
            (p, None),
            &After { activation: now, ..After::NOTHING },
        );
        let (m, n) = (x.rows(), y.as_ref().len() / x.rows().max(1));
        let (y, z) = if keep_z { (self.activate(&y, activation), Some(y)) } else { (y, None) };
        let y = Tensor::new(m, n, y, None);
        let backward = records.then(|| {
            let kept = match z {
                Some(z) => Tensor::new(m, n, z, None),
                None => y.clone(),
            };
            Box::new(Linear { x: x.clone(), kept, p, activation }) as Box<dyn Backward>
        });
        self.record(y, backward)
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
        if self.is_recording() || matches!(before, Before::Nothing) {
            return self.linear(&self.apply_before(before, x), p, activation);
        }
        let y = self.product(x, before, (p, None), &After { activation, ..After::NOTHING });
        let n = y.as_ref().len() / x.rows().max(1);
        self.output((x.rows(), n), y, None)
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
        let y = self.product(x, before, (p, Some(outputs)), &After::NOTHING);
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
        if !self.is_recording() {
            let after = After { onto: Some(onto), ..After::NOTHING };
            let y = self.product(x, before, (p, None), &after);
            return self.output((x.rows(), residual.cols()), y, None);
        }
        let x = &self.apply_before(before, x);
        if let Some(factors) = factors {
            let branch = self.linear(x, p, Activation::Identity);
            return self.add(residual, &self.scale_columns(&branch, factors));
        }
        let after = After { onto: Some(onto), ..After::NOTHING };
        let y = self.product(x, Before::Nothing, (p, None), &after);
        let y = Tensor::new(x.rows(), residual.cols(), y, None);
        let records = self.records(&[residual, x], &p.ids().collect::<Vec<_>>());
        let backward = records.then(|| {
            let (x, kept) = (x.clone(), y.clone());
            let branch = Linear { x, kept, p, activation: Activation::Identity };
            Box::new(LinearOnto { residual: residual.node(), branch }) as Box<dyn Backward>
        });
        self.record(y, backward)
    }

    /// What stands before a product, as an operation of its own.
    fn apply_before(&self, before: Before, x: &Tensor) -> Tensor {
        match before {
            Before::Nothing => x.clone(),
            Before::Norm(norm) => self.layer_norm(x, norm),
            Before::Gate(activation) => self.gate(x, activation),
        }
    }

    /// `r + γ ∘ act(before(x) · (s ∘ W)ᵀ + b)`
    fn product(
        &self,
        x: &Tensor,
        before: Before,
        (p, outputs): (LinearParams, Option<Range<usize>>),
        after: &After<'_>,
    ) -> Buffer {
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
            factors: after.onto.and_then(|onto| onto.factors).map(|f| self.value(f)),
            residual: after.onto.map(|onto| onto.residual.values()),
            add: false,
        };
        assert!(epilogue.residual.is_none_or(|r| r.len() == m * n), "a residual of [{m}, {n}]");
        let y = self.product_of(x, before, &right, epilogue);
        if let Some(trial) = self.trial() {
            let weight = weight();
            let right = MatRef::new(&weight, n, k).transposed();
            let right = PackedMatrix::pack(right, trial.precision, self.pool());
            let tried = self.product_of(x, before, &right, epilogue);
            trial.add(p.weight, y.as_ref(), tried.as_ref());
        }
        y
    }

    /// A product with a packed weight.
    fn product_of(
        &self,
        x: &Tensor,
        before: Before,
        right: &PackedMatrix,
        epilogue: Epilogue<'_>,
    ) -> Buffer {
        let (m, k) = (x.rows(), before.width(x.cols()));
        let mut y = self.take(m * right.n);
        let mut run = |left: Left<'_>| Product { left, right, epilogue }.run(y.as_mut());
        match (right.precision, before) {
            (Precision::F32, Before::Nothing) => run(Left::in_place(x.values(), m, k)),
            (precision, _) => {
                let mut words = self.take(m * precision.words(k));
                let mut levels = self.take(if precision == Precision::Int8 { 2 * m } else { 0 });
                let levels: &mut [Level] = bytemuck::cast_slice_mut(levels.as_mut());
                self.convert_rows((words.as_mut(), levels), x, before, precision);
                run(Left::words(words.as_ref(), m, levels));
            }
        }
        y
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
            Self::Nothing | Self::Norm(_) => cols,
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

impl Exec<'_> {
    /// `act(z)`
    pub(crate) fn activate(&self, z: &Buffer, activation: Activation) -> Buffer {
        let z = z.as_ref();
        let mut y = self.take(z.len());
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

/// `dy ∘ act'` in place, and the sum of its rows into the bias gradient, in one pass.
pub(crate) fn activation_backward(
    cx: &mut BackwardPass<'_>,
    dy: &mut Buffer,
    kept: &Tensor,
    activation: Activation,
    bias: Option<Bias>,
) {
    let (n, kept) = (kept.cols(), kept.values());
    let db = bias.and_then(|b| Some((b, cx.trained(b.id())?.1)));
    if db.is_none() && activation == Activation::Identity {
        return;
    }
    let sums = simd::map_row_blocks(
        dy.as_mut(),
        n,
        #[inline(always)]
        |first, dy| {
            activation.scale_gradient(dy, &kept[first * n..first * n + dy.len()]);
            let mut sum = vec![0.0; if db.is_some() { n } else { 0 }];
            for dy in dy.chunks_exact(n) {
                simd::add_assign(&mut sum, dy);
            }
            sum
        },
    );
    if let Some((bias, db)) = db {
        for sum in sums.iter() {
            bias.give(db, sum);
        }
    }
}

struct Linear {
    x: Tensor,
    kept: Tensor,
    p: LinearParams,
    activation: Activation,
}

impl Backward for Linear {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        activation_backward(cx, &mut dy, &self.kept, self.activation, self.p.bias);
        self.product_backward(cx, &dy);
    }
}

/// [`Exec::linear_onto`]
struct LinearOnto {
    residual: Option<NodeId>,
    branch: Linear,
}

impl Backward for LinearOnto {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        let branch = self.branch;
        activation_backward(cx, &mut dy, &branch.kept, branch.activation, branch.p.bias);
        branch.product_backward(cx, &dy);
        if let Some(residual) = self.residual {
            cx.give(residual, dy);
        }
    }
}

impl Linear {
    /// From `g = dL/dz`, the gradients of weight, row factors and input.
    fn product_backward(&self, cx: &mut BackwardPass<'_>, g: &Buffer) {
        let (m, k, n) = (self.x.rows(), self.x.cols(), self.kept.cols());
        let p = self.p;
        let precision = cx.precision_of(p.weight);
        let (g_rows, x) = (MatRef::new(g.as_ref(), m, n), MatRef::new(self.x.values(), m, k));
        let trains = |cx: &mut BackwardPass<'_>, id: ParamId| cx.trained(id).is_some();
        match p.scale {
            None => {
                let pool = cx.pool();
                if let Some((_, dw)) = cx.trained(p.weight) {
                    multiply_transposed(dw, g_rows, x, (precision, true), pool);
                }
            }
            Some(scale) if trains(cx, p.weight) || trains(cx, scale) => {
                let mut product = cx.pool().take(n * k);
                let how = (precision, false);
                multiply_transposed(product.as_mut(), g_rows, x, how, cx.pool());
                give_scaled(cx, p.weight, scale, product.as_ref(), k);
            }
            Some(_) => {}
        }
        if let Some(input) = self.x.node() {
            let dx = self.input_gradient(cx, g.as_ref());
            cx.give(input, dx);
        }
    }

    /// `g · (s ∘ W)`
    fn input_gradient(&self, cx: &BackwardPass<'_>, g: &[f32]) -> Buffer {
        let (m, k, n) = (self.x.rows(), self.x.cols(), self.kept.cols());
        let factors = self.p.scale.map(|s| cx.value(s));
        let weight = || scaled(cx.values(self.p.weight), factors, k, 0..n);
        let right = cx.packed(self.p.weight, weight, (n, k));
        let mut dx = cx.pool().take(m * k);
        let mut run = |left: Left<'_>| {
            Product { left, right: &right, epilogue: Epilogue::NONE }.run(dx.as_mut());
        };
        match right.precision {
            Precision::F32 => run(Left::in_place(g, m, n)),
            precision @ (Precision::Bf16 | Precision::Int8) => {
                let mut words = cx.pool().take(m * precision.words(n));
                let row = |i: usize| &g[i * n..(i + 1) * n];
                convert(words.as_mut(), &mut [], n, precision, |i, _| Row::Given(row(i)));
                run(Left::words(words.as_ref(), m, &[]));
            }
        }
        dx
    }
}

/// From `gᵀ x`, the gradients of `W` and of its row factors.
fn give_scaled(
    cx: &mut BackwardPass<'_>,
    weight: ParamId,
    scale: ParamId,
    product: &[f32],
    k: usize,
) {
    let factors: Vec<f32> = cx.value(scale).to_vec();
    if let Some((_, dw)) = cx.trained(weight) {
        vectorize(
            #[inline(always)]
            || {
                for ((dw, p), s) in
                    dw.chunks_exact_mut(k).zip(product.chunks_exact(k)).zip(&factors)
                {
                    for (dw, p) in dw.iter_mut().zip(p) {
                        *dw += p * s;
                    }
                }
            },
        );
    }
    let sums: Vec<f32> = vectorize(
        #[inline(always)]
        || {
            let rows = cx.value(weight).chunks_exact(k).zip(product.chunks_exact(k));
            rows.map(|(w, p)| simd::dot(w, p)).collect()
        },
    );
    if let Some((_, ds)) = cx.trained(scale) {
        simd::add_assign(ds, &sums);
    }
}
