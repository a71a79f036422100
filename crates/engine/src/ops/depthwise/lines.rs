//! The vector loops of a depthwise convolution, one line of pixels at a time.
//!
//! In:  lines of pixels, `[width, c]` each, and the nine taps, `[9, c]` ordered (y, x). Out: a line of
//! pixels, or the gradient of the taps.
//! A few pixels at a time, so that memory is read nearly in order; of these, a vector of channels at a
//! time, whose nine taps, or nine sums, stay in registers. Taps outside the image read a line of zeros.
#![expect(clippy::needless_range_loop, reason = "taps and sums are indexed by their place")]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::simd;

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

/// A vector of channels: `first..first + n`, of which `skip` were already done by the vector before.
#[derive(Clone, Copy)]
struct Channels {
    first: usize,
    n: usize,
    skip: usize,
}

impl Channels {
    /// The values of pixel `at` of a line with `c` channels.
    #[inline(always)]
    fn load<S: Simd>(self, simd: S, line: &[f32], at: usize, c: usize) -> S::f32s {
        let values = &line[at * c + self.first..][..self.n];
        if self.n == S::F32_LANES {
            S::as_simd_f32s(values).0[0]
        } else {
            simd.partial_load_f32s(values)
        }
    }

    #[inline(always)]
    fn load_nine<S: Simd>(self, simd: S, w: &[f32], c: usize) -> Nine<S> {
        let mut taps = [[simd.splat_f32s(0.0); 3]; 3];
        for ky in 0..3 {
            for kx in 0..3 {
                taps[ky][kx] = self.load(simd, w, ky * 3 + kx, c);
            }
        }
        taps
    }

    #[inline(always)]
    fn store<S: Simd>(self, simd: S, line: &mut [f32], at: usize, c: usize, value: S::f32s) {
        let values = &mut line[at * c + self.first..][..self.n];
        if self.n == S::F32_LANES {
            S::as_mut_simd_f32s(values).0[0] = value;
        } else {
            simd.partial_store_f32s(values, value);
        }
    }
}

/// Values in the widest vector there is.
const MOST_LANES: usize = 16;
/// Pixels for which taps are kept in registers.
const PIXELS: usize = 8;

/// A loop over some pixels of a line and a vector of its channels.
trait Step {
    fn step<S: Simd>(&mut self, simd: S, pixels: Range<usize>, channels: Channels);

    /// All steps of a line of `width` pixels with `c` channels. The last vector overlaps the one
    /// before it where channels are not whole vectors.
    #[inline(always)]
    fn line<S: Simd>(&mut self, simd: S, width: usize, c: usize) {
        let n = S::F32_LANES;
        let mut start = 0;
        while start < width {
            let pixels = start..width.min(start + PIXELS);
            let mut first = 0;
            while first + n <= c {
                self.step(simd, pixels.clone(), Channels { first, n, skip: 0 });
                first += n;
            }
            if first < c && c >= n {
                let channels = Channels { first: c - n, n, skip: first + n - c };
                self.step(simd, pixels, channels);
            } else if first < c {
                self.step(simd, pixels, Channels { first, n: c, skip: 0 });
            }
            start += PIXELS;
        }
    }
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
        let c = self.bias.len();
        self.line(simd, self.out.len() / c, c);
    }
}

impl Step for Convolve<'_> {
    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, pixels: Range<usize>, channels: Channels) {
        let c = self.bias.len();
        let width = self.lines[0].len() / c;
        let taps = channels.load_nine(simd, self.w, c);
        let bias = channels.load(simd, self.bias, 0, c);
        for ox in pixels {
            let mut sum = bias;
            if let Some(ix) = whole_window(ox, self.stride, self.left, width) {
                for ky in 0..3 {
                    for kx in 0..3 {
                        let x = channels.load(simd, self.lines[ky], ix + kx, c);
                        sum = simd.mul_add_e_f32s(taps[ky][kx], x, sum);
                    }
                }
            } else {
                for kx in 0..3 {
                    let ix = (ox * self.stride + kx).wrapping_sub(self.left);
                    if ix < width {
                        for ky in 0..3 {
                            let x = channels.load(simd, self.lines[ky], ix, c);
                            sum = simd.mul_add_e_f32s(taps[ky][kx], x, sum);
                        }
                    }
                }
            }
            channels.store(simd, self.out, ox, c, sum);
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
        let c = self.c;
        self.line(simd, self.out.len() / c, c);
    }
}

impl Step for ConvolveTransposed<'_> {
    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, pixels: Range<usize>, channels: Channels) {
        let c = self.c;
        let taps = channels.load_nine(simd, self.w, c);
        for ix in pixels {
            let mut sum = simd.splat_f32s(0.0);
            for kx in 0..3 {
                let ox = output_of(ix + self.left, kx, self.stride);
                let Some(ox) = ox.filter(|ox| *ox < self.width) else { continue };
                for ky in 0..3 {
                    if let Some(line) = self.lines[ky] {
                        let dy = channels.load(simd, line, ox, c);
                        sum = simd.mul_add_e_f32s(taps[ky][kx], dy, sum);
                    }
                }
            }
            channels.store(simd, self.out, ix, c, sum);
        }
    }
}

/// `dw[ky, kx] += Σ x ∘ dy` over a line.
pub(super) struct WeightGradient<'a> {
    /// `[9, c]`
    pub(super) dw: &'a mut [f32],
    /// The input lines under the three rows of taps.
    pub(super) x: [&'a [f32]; 3],
    pub(super) dy: &'a [f32],
    pub(super) stride: usize,
    pub(super) left: usize,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let c = self.dw.len() / 9;
        self.line(simd, self.dy.len() / c, c);
    }
}

impl Step for WeightGradient<'_> {
    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, pixels: Range<usize>, channels: Channels) {
        let c = self.dw.len() / 9;
        let width = self.x[0].len() / c;
        let mut sums = [[simd.splat_f32s(0.0); 3]; 3];
        for ox in pixels {
            let dy = channels.load(simd, self.dy, ox, c);
            if let Some(ix) = whole_window(ox, self.stride, self.left, width) {
                for ky in 0..3 {
                    for kx in 0..3 {
                        let x = channels.load(simd, self.x[ky], ix + kx, c);
                        sums[ky][kx] = simd.mul_add_e_f32s(x, dy, sums[ky][kx]);
                    }
                }
            } else {
                for kx in 0..3 {
                    let ix = (ox * self.stride + kx).wrapping_sub(self.left);
                    if ix < width {
                        for ky in 0..3 {
                            let x = channels.load(simd, self.x[ky], ix, c);
                            sums[ky][kx] = simd.mul_add_e_f32s(x, dy, sums[ky][kx]);
                        }
                    }
                }
            }
        }
        for ky in 0..3 {
            for kx in 0..3 {
                self.add(simd, ky * 3 + kx, channels, sums[ky][kx]);
            }
        }
    }
}

impl WeightGradient<'_> {
    /// Adds a sum to a tap, where the vector before has not.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, tap: usize, channels: Channels, sum: S::f32s) {
        let c = self.dw.len() / 9;
        if channels.skip == 0 {
            let old = channels.load(simd, self.dw, tap, c);
            channels.store(simd, self.dw, tap, c, simd.add_f32s(old, sum));
        } else {
            let mut values = [0.0_f32; MOST_LANES];
            S::as_mut_simd_f32s(&mut values[..S::F32_LANES]).0[0] = sum;
            let fresh = channels.skip..channels.n;
            let dw = &mut self.dw[tap * c + channels.first..][fresh.clone()];
            simd::add_assign(dw, &values[fresh]);
        }
    }
}
