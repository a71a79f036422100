//! The vector loops of a depthwise convolution, one line of pixels at a time.
//!
//! In:  lines of pixels, `[width, c]` each, and the nine taps, `[9, c]` ordered (y, x). Out: a line of
//! pixels, or the gradient of the taps.
//! Channels are taken a vector at a time; its nine taps, or its nine sums, stay in registers along the
//! line. A line of taps outside the image reads a line of zeros.

use pulp::{Arch, Simd, WithSimd};

/// Runs one of the loops with the widest vectors of this machine.
pub(super) fn run(op: impl WithSimd<Output = ()>) {
    Arch::new().dispatch(op);
}

/// The output position whose tap `k` reads padded input position `i`, if there is one.
#[inline(always)]
pub(super) fn output_of(i: usize, k: usize, stride: usize) -> Option<usize> {
    let ahead = i.checked_sub(k)?;
    ahead.is_multiple_of(stride).then_some(ahead / stride)
}

/// Nine vectors, ordered (y, x).
type Nine<S> = [[<S as Simd>::f32s; 3]; 3];

#[inline(always)]
fn load_taps<S: Simd>(simd: S, w: &[f32], (c, first, n): (usize, usize, usize)) -> Nine<S> {
    let mut taps = [[simd.splat_f32s(0.0); 3]; 3];
    for ky in 0..3 {
        for kx in 0..3 {
            taps[ky][kx] = simd.partial_load_f32s(&w[(ky * 3 + kx) * c + first..][..n]);
        }
    }
    taps
}

/// Calls `$self.$step(simd, first, n)` for each vector of channels; the last may be partial.
macro_rules! for_channels {
    ($self:ident.$step:ident($simd:ident), $c:expr) => {
        let lanes = S::F32_LANES;
        let whole = $c / lanes * lanes;
        for first in (0..whole).step_by(lanes) {
            $self.$step($simd, first, lanes);
        }
        if whole < $c {
            $self.$step($simd, whole, $c - whole);
        }
    };
}

/// Whether all three taps at output position `ox` fall inside a line, and where the first does.
#[inline(always)]
fn whole_window(ox: usize, stride: usize, left: usize, width: usize) -> Option<usize> {
    let ix = (ox * stride).checked_sub(left)?;
    (ix + 3 <= width).then_some(ix)
}

/// A line of the convolution.
pub(super) struct Convolve<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) lines: [&'a [f32]; 3],
    pub(super) w: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) stride: usize,
    pub(super) left: usize,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_channels!(self.channels(simd), self.bias.len());
    }
}

impl Convolve<'_> {
    #[inline(always)]
    fn channels<S: Simd>(&mut self, simd: S, first: usize, n: usize) {
        let c = self.bias.len();
        let width = self.lines[0].len() / c;
        let taps = load_taps(simd, self.w, (c, first, n));
        let bias = simd.partial_load_f32s(&self.bias[first..][..n]);
        for (ox, out) in self.out.chunks_exact_mut(c).enumerate() {
            let mut sum = bias;
            if let Some(ix) = whole_window(ox, self.stride, self.left, width) {
                for ky in 0..3 {
                    for kx in 0..3 {
                        let x = &self.lines[ky][(ix + kx) * c + first..][..n];
                        sum = simd.mul_add_e_f32s(taps[ky][kx], simd.partial_load_f32s(x), sum);
                    }
                }
            } else {
                for kx in 0..3 {
                    let ix = (ox * self.stride + kx).wrapping_sub(self.left);
                    if ix < width {
                        for ky in 0..3 {
                            let x = &self.lines[ky][ix * c + first..][..n];
                            sum = simd.mul_add_e_f32s(taps[ky][kx], simd.partial_load_f32s(x), sum);
                        }
                    }
                }
            }
            simd.partial_store_f32s(&mut out[first..][..n], sum);
        }
    }
}

/// A line of the transposed convolution, for strides above one.
pub(super) struct ConvolveTransposed<'a> {
    pub(super) out: &'a mut [f32],
    /// The lines of gradients which each row of taps reached, `[width, c]`.
    pub(super) lines: [Option<&'a [f32]>; 3],
    pub(super) w: &'a [f32],
    pub(super) c: usize,
    pub(super) stride: usize,
    pub(super) left: usize,
    pub(super) width: usize,
}

impl WithSimd for ConvolveTransposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_channels!(self.channels(simd), self.c);
    }
}

impl ConvolveTransposed<'_> {
    #[inline(always)]
    fn channels<S: Simd>(&mut self, simd: S, first: usize, n: usize) {
        let c = self.c;
        let taps = load_taps(simd, self.w, (c, first, n));
        for (ix, out) in self.out.chunks_exact_mut(c).enumerate() {
            let mut sum = simd.splat_f32s(0.0);
            for kx in 0..3 {
                let ox = output_of(ix + self.left, kx, self.stride);
                let Some(ox) = ox.filter(|ox| *ox < self.width) else { continue };
                for ky in 0..3 {
                    if let Some(line) = self.lines[ky] {
                        let dy = simd.partial_load_f32s(&line[ox * c + first..][..n]);
                        sum = simd.mul_add_e_f32s(taps[ky][kx], dy, sum);
                    }
                }
            }
            simd.partial_store_f32s(&mut out[first..][..n], sum);
        }
    }
}

/// `dw[ky, kx] += Σ x ∘ dy` over some lines.
pub(super) struct WeightGradient<'a> {
    /// `[9, c]`
    pub(super) dw: &'a mut [f32],
    /// The input lines under each line of `dy`, and the line.
    pub(super) lines: &'a [([&'a [f32]; 3], &'a [f32])],
    pub(super) stride: usize,
    pub(super) left: usize,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_channels!(self.channels(simd), self.dw.len() / 9);
    }
}

impl WeightGradient<'_> {
    #[inline(always)]
    fn channels<S: Simd>(&mut self, simd: S, first: usize, n: usize) {
        let c = self.dw.len() / 9;
        let mut sums = load_taps(simd, self.dw, (c, first, n));
        for (x, dy) in self.lines {
            let width = x[0].len() / c;
            for (ox, dy) in dy.chunks_exact(c).enumerate() {
                let dy = simd.partial_load_f32s(&dy[first..][..n]);
                if let Some(ix) = whole_window(ox, self.stride, self.left, width) {
                    for ky in 0..3 {
                        for kx in 0..3 {
                            let x = simd.partial_load_f32s(&x[ky][(ix + kx) * c + first..][..n]);
                            sums[ky][kx] = simd.mul_add_e_f32s(x, dy, sums[ky][kx]);
                        }
                    }
                } else {
                    for kx in 0..3 {
                        let ix = (ox * self.stride + kx).wrapping_sub(self.left);
                        if ix < width {
                            for ky in 0..3 {
                                let x = simd.partial_load_f32s(&x[ky][ix * c + first..][..n]);
                                sums[ky][kx] = simd.mul_add_e_f32s(x, dy, sums[ky][kx]);
                            }
                        }
                    }
                }
            }
        }
        for ky in 0..3 {
            for kx in 0..3 {
                let dw = &mut self.dw[(ky * 3 + kx) * c + first..][..n];
                simd.partial_store_f32s(dw, sums[ky][kx]);
            }
        }
    }
}
