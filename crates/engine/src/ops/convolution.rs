//! Convolutions on channel-last images.
//!
//! - [`Exec::unfold`]: the windows of an image as rows, so that a dense convolution or a patch
//!   embedding is [`Exec::linear`] behind it. It takes raw pixels and has no backward.
//! - [`Exec::depthwise`]: a 3 × 3 convolution per channel with its folded batch norm and activation,
//!   `y = act(s ∘ (w ∗ x) + b)`.
//!
//! Padding is TensorFlow's "same": the missing row or column goes behind (`out = ⌈in / stride⌉`).

use rayon::prelude::*;

use crate::{
    Activation, Exec, ParamId, Tensor,
    ops::linear::{LinearParams, activation_backward, bias_and_activation},
    simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
    vectorize,
};

/// The geometry of a batch of images whose pixels are the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// Number of images.
    pub batch: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
}

impl ImageShape {
    /// The shape after a "same" convolution with this stride.
    #[must_use]
    pub fn strided(self, stride: usize) -> Self {
        let (height, width) = (self.height.div_ceil(stride), self.width.div_ceil(stride));
        Self { height, width, ..self }
    }

    /// Rows of the tensor: all pixels of all images.
    #[must_use]
    pub fn rows(self) -> usize {
        self.batch * self.height * self.width
    }

    fn row(self, image: usize, y: usize, x: usize) -> usize {
        (image * self.height + y) * self.width + x
    }
}

/// Zeros before the first pixel so that `out = ⌈size / stride⌉` windows of `kernel` fit.
fn padding_before(size: usize, kernel: usize, stride: usize) -> usize {
    let covered = (size.div_ceil(stride) - 1) * stride + kernel;
    covered.saturating_sub(size) / 2
}

impl Exec<'_> {
    /// The `kernel × kernel` windows of images, "same" padded, as rows ordered (y, x, channel).
    ///
    /// # Shapes
    /// `x`: `[b · h · w, c]`, result: `[b · ⌈h/stride⌉ · ⌈w/stride⌉, kernel² · c]`.
    ///
    /// # Panics
    /// When `x` is on the tape: there is no backward.
    #[must_use]
    pub fn unfold(&self, x: &Tensor, shape: ImageShape, kernel: usize, stride: usize) -> Tensor {
        assert!(x.node().is_none(), "windows are taken of pixels only");
        assert_eq!(x.rows(), shape.rows(), "a row per pixel");
        let (c, out) = (x.cols(), shape.strided(stride));
        let (top, left) = (
            padding_before(shape.height, kernel, stride),
            padding_before(shape.width, kernel, stride),
        );
        let (values, cols) = (x.values(), kernel * kernel * c);
        let mut y = self.take(out.rows() * cols);
        simd::for_row_blocks(y.as_mut(), cols, |first, y| {
            for (i, window) in y.chunks_exact_mut(cols).enumerate() {
                let (image, oy, ox) = position(first + i, out);
                for (ky, line) in window.chunks_exact_mut(kernel * c).enumerate() {
                    let iy = (oy * stride + ky).wrapping_sub(top);
                    for (kx, pixel) in line.chunks_exact_mut(c).enumerate() {
                        let ix = (ox * stride + kx).wrapping_sub(left);
                        if iy < shape.height && ix < shape.width {
                            let row = shape.row(image, iy, ix);
                            pixel.copy_from_slice(&values[row * c..(row + 1) * c]);
                        } else {
                            pixel.fill(0.0);
                        }
                    }
                }
            }
        });
        self.output((out.rows(), cols), y, None)
    }

    /// A 3 × 3 convolution per channel, "same" padded, with scale, bias and activation.
    ///
    /// # Shapes
    /// `x`: `[b · h · w, c]`, `p.weight`: `[9, c]` ordered (y, x), `p.scale` and `p.bias`: `[c]`,
    /// result: `[b · ⌈h/stride⌉ · ⌈w/stride⌉, c]`.
    ///
    /// # Panics
    /// When `x` has not a row per pixel.
    #[must_use]
    pub fn depthwise(
        &self,
        x: &Tensor,
        shape: ImageShape,
        stride: usize,
        p: LinearParams,
        activation: Activation,
    ) -> Tensor {
        assert_eq!(x.rows(), shape.rows(), "a row per pixel");
        let (c, grid) = (x.cols(), Grid::new(shape, stride));
        let mut weight = self.take(9 * c);
        scale_taps(weight.as_mut(), self.value(p.weight), p.scale.map(|s| self.value(s)));
        let ids: Vec<_> = [Some(p.weight), p.scale, p.bias].into_iter().flatten().collect();
        let records = self.records(&[x], &ids);
        let keep_z = records && !activation.derivative_from_output();
        let now = if keep_z { Activation::Identity } else { activation };
        let bias = p.bias.map(|b| self.value(b));
        let mut y = self.take(grid.out.rows() * c);
        grid.convolve(y.as_mut(), x.values(), weight.as_ref(), c);
        simd::for_row_blocks(y.as_mut(), c, |_, y| bias_and_activation(y, bias, c, now));
        let (y, z) = if keep_z { (self.activate(&y, activation), Some(y)) } else { (y, None) };
        let y = Tensor::new(grid.out.rows(), c, y, None);
        let backward = records.then(|| {
            let kept = z.map_or_else(|| y.clone(), |z| Tensor::new(y.rows(), c, z, None));
            Box::new(Depthwise { x: x.clone(), kept, weight, grid, p, activation })
                as Box<dyn Backward>
        });
        self.record(y, backward)
    }
}

fn position(row: usize, shape: ImageShape) -> (usize, usize, usize) {
    let in_image = row % (shape.height * shape.width);
    (row / (shape.height * shape.width), in_image / shape.width, in_image % shape.width)
}

/// `out = w ∘ s` for taps `[9, c]`.
fn scale_taps(out: &mut [f32], w: &[f32], s: Option<&[f32]>) {
    out.copy_from_slice(w);
    if let Some(s) = s {
        for tap in out.chunks_exact_mut(s.len()) {
            tap.iter_mut().zip(s).for_each(|(w, s)| *w *= s);
        }
    }
}

/// Where the nine taps of a "same" 3 × 3 convolution fall.
#[derive(Debug, Clone, Copy)]
struct Grid {
    input: ImageShape,
    out: ImageShape,
    stride: usize,
    top: usize,
    left: usize,
}

/// Up to nine (values, weights) pairs of length `c`, summed elementwise.
struct Taps<'a> {
    pairs: [(&'a [f32], &'a [f32]); 9],
    n: usize,
}

impl<'a> Taps<'a> {
    #[inline(always)]
    fn new() -> Self {
        Self { pairs: [(&[], &[]); 9], n: 0 }
    }

    #[inline(always)]
    fn push(&mut self, values: &'a [f32], weights: &'a [f32]) {
        self.pairs[self.n] = (values, weights);
        self.n += 1;
    }

    /// `out = Σ values ∘ weights`
    #[inline(always)]
    fn sum_into(&self, out: &mut [f32]) {
        const WIDE: usize = 8;
        let pairs = &self.pairs[..self.n];
        let whole = out.len() / WIDE * WIDE;
        for first in (0..whole).step_by(WIDE) {
            let mut sum = [0.0_f32; WIDE];
            for (x, w) in pairs {
                let (x, w) = (&x[first..first + WIDE], &w[first..first + WIDE]);
                for i in 0..WIDE {
                    sum[i] += x[i] * w[i];
                }
            }
            out[first..first + WIDE].copy_from_slice(&sum);
        }
        for i in whole..out.len() {
            out[i] = pairs.iter().map(|(x, w)| x[i] * w[i]).sum();
        }
    }
}

impl Grid {
    fn new(input: ImageShape, stride: usize) -> Self {
        let top = padding_before(input.height, 3, stride);
        let left = padding_before(input.width, 3, stride);
        Self { input, out: input.strided(stride), stride, top, left }
    }

    /// `out[oy, ox] = Σ x[oy·s + ky − top, ox·s + kx − left] ∘ w[ky, kx]`
    fn convolve(&self, out: &mut [f32], x: &[f32], w: &[f32], c: usize) {
        let (input, shape) = (self.input, self.out);
        self.for_lines(out, shape, c, |image, oy, line| {
            for (ox, out) in line.chunks_exact_mut(c).enumerate() {
                let mut taps = Taps::new();
                for ky in 0..3 {
                    let iy = (oy * self.stride + ky).wrapping_sub(self.top);
                    for kx in 0..3 {
                        let ix = (ox * self.stride + kx).wrapping_sub(self.left);
                        if iy < input.height && ix < input.width {
                            let row = input.row(image, iy, ix);
                            let tap = ky * 3 + kx;
                            taps.push(&x[row * c..(row + 1) * c], &w[tap * c..(tap + 1) * c]);
                        }
                    }
                }
                taps.sum_into(out);
            }
        });
    }

    /// The transpose of [`Grid::convolve`]: what each input pixel gave to the outputs.
    fn convolve_transposed(&self, dx: &mut [f32], dy: &[f32], w: &[f32], c: usize) {
        let (input, shape) = (self.input, self.out);
        self.for_lines(dx, input, c, |image, iy, line| {
            for (ix, dx) in line.chunks_exact_mut(c).enumerate() {
                let mut taps = Taps::new();
                for ky in 0..3 {
                    let Some(oy) = self.source(iy + self.top, ky, shape.height) else { continue };
                    for kx in 0..3 {
                        let Some(ox) = self.source(ix + self.left, kx, shape.width) else {
                            continue;
                        };
                        let row = shape.row(image, oy, ox);
                        let tap = ky * 3 + kx;
                        taps.push(&dy[row * c..(row + 1) * c], &w[tap * c..(tap + 1) * c]);
                    }
                }
                taps.sum_into(dx);
            }
        });
    }

    /// The output position whose tap `k` reads padded input position `i`, if there is one.
    #[inline(always)]
    fn source(&self, i: usize, k: usize, limit: usize) -> Option<usize> {
        let ahead = i.checked_sub(k)?;
        let o = ahead / self.stride;
        (ahead.is_multiple_of(self.stride) && o < limit).then_some(o)
    }

    /// Adds `Σ x ∘ dy` per tap to `dw`, `[9, c]`, in a fixed order.
    fn weight_gradient(&self, dw: &mut [f32], x: &[f32], dy: &[f32], c: usize) {
        let (input, shape) = (self.input, self.out);
        let lines = shape.batch * shape.height;
        let per_block = simd::rows_per_block(shape.width * c);
        let partials: Vec<Vec<f32>> = (0..lines.div_ceil(per_block))
            .into_par_iter()
            .map(|block| {
                let mut partial = vec![0.0; 9 * c];
                vectorize(|| {
                    let first = block * per_block;
                    for line in first..(first + per_block).min(lines) {
                        let (image, oy) = (line / shape.height, line % shape.height);
                        self.line_gradient(&mut partial, x, dy, (image, oy), (input, c));
                    }
                });
                partial
            })
            .collect();
        partials.iter().for_each(|partial| simd::add_assign(dw, partial));
    }

    #[inline(always)]
    fn line_gradient(
        &self,
        dw: &mut [f32],
        x: &[f32],
        dy: &[f32],
        (image, oy): (usize, usize),
        (input, c): (ImageShape, usize),
    ) {
        for ox in 0..self.out.width {
            let row = self.out.row(image, oy, ox);
            let dy = &dy[row * c..(row + 1) * c];
            for ky in 0..3 {
                let iy = (oy * self.stride + ky).wrapping_sub(self.top);
                for kx in 0..3 {
                    let ix = (ox * self.stride + kx).wrapping_sub(self.left);
                    if iy < input.height && ix < input.width {
                        let row = input.row(image, iy, ix);
                        let tap = ky * 3 + kx;
                        add_product(
                            &mut dw[tap * c..(tap + 1) * c],
                            &x[row * c..(row + 1) * c],
                            dy,
                        );
                    }
                }
            }
        }
    }

    /// Calls `f(image, y, line)` for every line of pixels of `out`, on all threads, vectorised.
    fn for_lines(
        &self,
        out: &mut [f32],
        shape: ImageShape,
        c: usize,
        f: impl Fn(usize, usize, &mut [f32]) + Send + Sync,
    ) {
        let line = shape.width * c;
        let block = simd::rows_per_block(line);
        out.par_chunks_mut(block * line).enumerate().for_each(|(idx, lines)| {
            vectorize(|| {
                for (i, out) in lines.chunks_exact_mut(line).enumerate() {
                    let at = idx * block + i;
                    f(at / shape.height, at % shape.height, out);
                }
            });
        });
    }
}

/// `y += a ∘ b`, in steps that stay vectors for the narrow layers.
#[inline(always)]
fn add_product(y: &mut [f32], a: &[f32], b: &[f32]) {
    const WIDE: usize = 8;
    let (ys, y_tail) = y.as_chunks_mut::<WIDE>();
    let ((a_chunks, a_tail), (b_chunks, b_tail)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    for ((y, a), b) in ys.iter_mut().zip(a_chunks).zip(b_chunks) {
        for i in 0..WIDE {
            y[i] += a[i] * b[i];
        }
    }
    for ((y, a), b) in y_tail.iter_mut().zip(a_tail).zip(b_tail) {
        *y += a * b;
    }
}

struct Depthwise {
    x: Tensor,
    kept: Tensor,
    weight: Buffer,
    grid: Grid,
    p: LinearParams,
    activation: Activation,
}

impl Backward for Depthwise {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        let c = self.x.cols();
        activation_backward(cx, &mut dy, &self.kept, self.activation, self.p.bias);
        let trains = |cx: &mut BackwardPass<'_>, id: ParamId| cx.trained(id).is_some();
        if trains(cx, self.p.weight) || self.p.scale.is_some_and(|s| trains(cx, s)) {
            let mut product = vec![0.0; 9 * c];
            self.grid.weight_gradient(&mut product, self.x.values(), dy.as_ref(), c);
            give_taps(cx, self.p, &product, c);
        }
        if let Some(input) = self.x.node() {
            let mut dx = cx.pool().take(self.x.values().len());
            self.grid.convolve_transposed(dx.as_mut(), dy.as_ref(), self.weight.as_ref(), c);
            cx.give(input, dx);
        }
    }
}

/// From `Σ x ∘ g` per tap, the gradients of the taps and of their factors.
fn give_taps(cx: &mut BackwardPass<'_>, p: LinearParams, product: &[f32], c: usize) {
    let mut scaled = product.to_vec();
    if let Some(scale) = p.scale {
        let mut sums = vec![0.0; c];
        for (w, product) in cx.value(p.weight).chunks_exact(c).zip(product.chunks_exact(c)) {
            add_product(&mut sums, w, product);
        }
        scale_taps(&mut scaled, product, Some(cx.value(scale)));
        if let Some((_, ds)) = cx.trained(scale) {
            simd::add_assign(ds, &sums);
        }
    }
    if let Some((_, dw)) = cx.trained(p.weight) {
        simd::add_assign(dw, &scaled);
    }
}
