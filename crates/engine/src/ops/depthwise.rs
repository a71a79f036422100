//! A 3 × 3 convolution per channel with its folded batch norm and activation:
//! `y = act(s ∘ (w ∗ x) + b)`, on channel-last images.
//!
//! Padding is TensorFlow's "same": the missing row or column goes behind (`out = ⌈in / stride⌉`).
//! Backward, with `g = dy ∘ act'`: `dw = s ∘ Σ x ∘ g` per tap, `ds = Σ w ∘ Σ x ∘ g`, and `dx` the
//! transposed convolution of `g`. Not here: the loops over channels (`lines`).

mod lines;

use rayon::prelude::*;

use self::lines::{Convolve, ConvolveTransposed, WeightGradient};
use crate::{
    Activation, Exec, ImageShape, ParamId, Tensor,
    ops::{
        convolution::padding_before,
        linear::{LinearParams, activation_backward},
    },
    simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
    vectorize,
};

impl Exec<'_> {
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
        let records = self.records(&[x], &p.ids().collect::<Vec<_>>());
        if records && !activation.derivative_from_output() {
            let z = self.depthwise(x, shape, stride, p, Activation::Identity);
            return self.activate(&z, activation);
        }
        let (c, grid) = (x.cols(), Grid::new(shape, stride));
        let mut weight = self.take(9 * c);
        scale_taps(weight.as_mut(), self.value(p.weight), p.scale.map(|s| self.value(s)));
        let bias = p.bias.map_or(vec![0.0; c].into(), |b| b.whole(self.value(b.id()), c));
        let mut y = self.take(grid.out.rows() * c);
        grid.convolve(y.as_mut(), x.values(), (weight.as_ref(), &bias), |y| activation.apply(y));
        let y = Tensor::new(grid.out.rows(), c, y, None);
        let backward = records.then(|| {
            let (x, kept) = (x.clone(), y.clone());
            Box::new(Depthwise { x, kept, weight, grid, p, activation }) as Box<dyn Backward>
        });
        self.record(y, backward)
    }
}

/// `out = w ∘ s` for taps `[9, c]`.
fn scale_taps(out: &mut [f32], w: &[f32], s: Option<&[f32]>) {
    out.copy_from_slice(w);
    if let Some(s) = s {
        for tap in out.chunks_exact_mut(s.len()) {
            for (w, s) in tap.iter_mut().zip(s) {
                *w *= s;
            }
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

impl Grid {
    fn new(input: ImageShape, stride: usize) -> Self {
        let top = padding_before(input.height, 3, stride);
        let left = padding_before(input.width, 3, stride);
        Self { input, out: input.strided(stride), stride, top, left }
    }

    /// `out[oy, ox] = b + Σ x[oy·s + ky − top, ox·s + kx − left] ∘ w[ky, kx]`, and `finish(line)` on
    /// every finished line.
    fn convolve(
        &self,
        out: &mut [f32],
        x: &[f32],
        (w, bias): (&[f32], &[f32]),
        finish: impl Fn(&mut [f32]) + Send + Sync,
    ) {
        let c = bias.len();
        let zeros = vec![0.0; self.input.width * c];
        for_lines(out, self.out, c, |image, oy, line| {
            let lines = self
                .lines_under(oy)
                .map(|iy| iy.map_or(zeros.as_slice(), |iy| self.input.line(x, image, iy, c)));
            let (stride, left) = (self.stride, self.left);
            lines::run(Convolve { out: &mut *line, lines, w, bias, stride, left });
            vectorize(
                #[inline(always)]
                || finish(line),
            );
        });
    }

    /// The input lines which the taps of output line `oy` read.
    fn lines_under(&self, oy: usize) -> [Option<usize>; 3] {
        [0, 1, 2].map(|ky| {
            let iy = (oy * self.stride + ky).checked_sub(self.top)?;
            (iy < self.input.height).then_some(iy)
        })
    }

    /// The transpose of [`Grid::convolve`]: what each input pixel gave to the outputs.
    fn convolve_transposed(&self, dx: &mut [f32], dy: &[f32], w: &[f32], c: usize) {
        if self.stride == 1 {
            // A convolution again, with the taps read backwards.
            let mut flipped = Vec::with_capacity(9 * c);
            for tap in w.chunks_exact(c).rev() {
                flipped.extend_from_slice(tap);
            }
            let (top, left) = (2 - self.top, 2 - self.left);
            let back = Self { input: self.out, out: self.input, stride: 1, top, left };
            return back.convolve(dx, dy, (&flipped, &vec![0.0; c]), |_| {});
        }
        for_lines(dx, self.input, c, |image, iy, out| {
            let lines = [0, 1, 2].map(|ky| {
                let oy = lines::output_of(iy + self.top, ky, self.stride)?;
                (oy < self.out.height).then(|| self.out.line(dy, image, oy, c))
            });
            let (stride, left, width) = (self.stride, self.left, self.out.width);
            lines::run(ConvolveTransposed { out, lines, w, c, stride, left, width });
        });
    }

    /// Adds `Σ x ∘ dy` per tap to `dw`, `[9, c]`, in a fixed order.
    fn weight_gradient(&self, dw: &mut [f32], x: &[f32], dy: &[f32], c: usize) {
        let n_lines = self.out.batch * self.out.height;
        let per_block = simd::rows_per_block(self.out.width * c);
        let zeros = vec![0.0; self.input.width * c];
        let partials: Vec<Vec<f32>> = (0..n_lines.div_ceil(per_block))
            .into_par_iter()
            .map(|block| {
                let range = block * per_block..n_lines.min((block + 1) * per_block);
                let mut dw = vec![0.0; 9 * c];
                for line in range {
                    let (image, oy) = (line / self.out.height, line % self.out.height);
                    let x = self.lines_under(oy).map(|iy| {
                        iy.map_or(zeros.as_slice(), |iy| self.input.line(x, image, iy, c))
                    });
                    let (dy, dw) = (self.out.line(dy, image, oy, c), dw.as_mut_slice());
                    let (stride, left) = (self.stride, self.left);
                    lines::run(WeightGradient { dw, x, dy, stride, left });
                }
                dw
            })
            .collect();
        for partial in partials.iter() {
            simd::add_assign(dw, partial);
        }
    }
}

impl ImageShape {
    /// Line `y` of an image.
    fn line(self, values: &[f32], image: usize, y: usize, c: usize) -> &[f32] {
        let first = self.row(image, y, 0) * c;
        &values[first..first + self.width * c]
    }
}

/// Calls `f(image, y, line)` for every line of pixels of `out`, on all threads.
fn for_lines(
    out: &mut [f32],
    shape: ImageShape,
    c: usize,
    f: impl Fn(usize, usize, &mut [f32]) + Send + Sync,
) {
    let line = shape.width * c;
    let block = simd::rows_per_block(line);
    out.par_chunks_mut(block * line).enumerate().for_each(|(idx, lines)| {
        for (i, out) in lines.chunks_exact_mut(line).enumerate() {
            let at = idx * block + i;
            f(at / shape.height, at % shape.height, out);
        }
    });
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
        let kept = Some((self.activation, &self.kept));
        activation_backward(cx, &mut dy, c, kept, self.p.bias);
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
            for ((s, w), p) in sums.iter_mut().zip(w).zip(product) {
                *s += w * p;
            }
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
