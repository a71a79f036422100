//! Kernels written once over `pulp`'s vectors: AVX-512, AVX2 with FMA, NEON, scalar.
//!
//! `f32` is at full speed everywhere. Pairs of bf16 are widened to `f32` (a shift, a mask) and
//! multiplied as such; bytes are multiplied as integers in plain loops.
#![expect(unsafe_code, reason = "words are read without a check of each; a tile is checked once")]

use pulp::Simd;

use super::BLOCK;
use crate::gemm::{
    packed::to_bf16,
    tile::{MAX_WIDTH, TileKernel, Words, tile_rows},
};

/// One `f32` per word.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct F32<S>(pub(in crate::gemm) S);

/// Two bf16 per word, the first in the low half.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Bf16<S>(pub(in crate::gemm) S);

/// Four bytes per word: unsigned on the left, signed on the right.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Int8<S>(pub(in crate::gemm) S);

/// Adds up words that are made of floating-point numbers.
trait Floating<S: Simd> {
    /// `word(r, k)` is word `k` of row `r`.
    ///
    /// # Shapes
    /// `b`: `[k, V · LANES]` words.
    fn sum<const R: usize, const V: usize>(
        self,
        b: &[u32],
        word: impl Fn(usize, usize) -> u32,
    ) -> [[S::f32s; V]; R];
}

impl<S: Simd> Floating<S> for F32<S> {
    #[inline(always)]
    fn sum<const R: usize, const V: usize>(
        self,
        b: &[u32],
        word: impl Fn(usize, usize) -> u32,
    ) -> [[S::f32s; V]; R] {
        let simd = self.0;
        let (b, _) = S::as_simd_f32s(bytemuck::cast_slice(b));
        let (b, _) = b.as_chunks::<V>();
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (k, b) in b.iter().enumerate() {
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = simd.splat_f32s(f32::from_bits(word(r, k)));
                for v in 0..V {
                    sums[v] = simd.mul_add_e_f32s(a, b[v], sums[v]);
                }
            }
        }
        sums
    }
}

impl<S: Simd> Floating<S> for Bf16<S> {
    #[inline(always)]
    fn sum<const R: usize, const V: usize>(
        self,
        b: &[u32],
        word: impl Fn(usize, usize) -> u32,
    ) -> [[S::f32s; V]; R] {
        let simd = self.0;
        let (b, _) = S::as_simd_u32s(b);
        let (b, _) = b.as_chunks::<V>();
        let (shift, high_half) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (k, b) in b.iter().enumerate() {
            let mut low = [simd.splat_f32s(0.0); V];
            let mut high = low;
            for v in 0..V {
                low[v] = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(b[v], shift));
                high[v] = simd.transmute_f32s_u32s(simd.and_u32s(b[v], high_half));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = word(r, k);
                let first = simd.splat_f32s(f32::from_bits(a << 16));
                let second = simd.splat_f32s(f32::from_bits(a & 0xffff_0000));
                for v in 0..V {
                    sums[v] = simd.mul_add_e_f32s(first, low[v], sums[v]);
                    sums[v] = simd.mul_add_e_f32s(second, high[v], sums[v]);
                }
            }
        }
        sums
    }
}

/// [`TileKernel::tile`] of floating-point words.
#[inline(always)]
fn sum_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    kernel: impl Floating<S>,
    (a, b): (Words<'_>, &[u32]),
    out: &mut [f32],
    add: bool,
) {
    let k = b.len() / (V * S::F32_LANES);
    assert!(a.has(R, k), "{R} rows of {k} words");
    let sums: [[S::f32s; V]; R] = if a.alternates(R) {
        // SAFETY: `has` checked the last word of the last row.
        kernel.sum(b, |r, k| unsafe { *a.words.get_unchecked(k * R + r) })
    } else if let Some(rows) = a.slices::<R>(k) {
        // SAFETY: each slice has as many words as `b`.
        kernel.sum(b, |r, k| unsafe { *rows[r].get_unchecked(k) })
    } else {
        let (row, word) = (a.row_stride, a.word_stride);
        // SAFETY: `has` checked the last word of the last row.
        kernel.sum(b, |r, k| unsafe { *a.words.get_unchecked(r * row + k * word) })
    };
    store(simd, sums, out, add);
}

impl<S: Simd> TileKernel for F32<S> {
    const LANES: usize = S::F32_LANES;
    const ROWS: usize = tile_rows::<S>();

    #[inline(always)]
    fn tile<const R: usize, const V: usize>(
        self,
        a: Words<'_>,
        b: &[u32],
        out: &mut [f32],
        add: bool,
    ) {
        sum_tile::<S, R, V>(self.0, self, (a, b), out, add);
    }
}

impl<S: Simd> TileKernel for Bf16<S> {
    const LANES: usize = S::F32_LANES;
    const ROWS: usize = tile_rows::<S>();

    #[inline(always)]
    fn tile<const R: usize, const V: usize>(
        self,
        a: Words<'_>,
        b: &[u32],
        out: &mut [f32],
        add: bool,
    ) {
        sum_tile::<S, R, V>(self.0, self, (a, b), out, add);
    }
}

/// [`super::transpose_block`] word by word.
#[inline(always)]
pub(in crate::gemm) fn transpose_block(
    (from, from_stride): (&[u32], usize),
    (to, to_stride): (&mut [u32], usize),
) {
    for (j, row) in from.chunks(from_stride).take(BLOCK).enumerate() {
        for (k, word) in row[..BLOCK].iter().enumerate() {
            to[k * to_stride + j] = *word;
        }
    }
}

/// [`super::round`] number by number.
#[inline(always)]
pub(in crate::gemm) fn round(to: &mut [u16], from: &[f32]) {
    for (to, x) in to.iter_mut().zip(from) {
        *to = to_bf16(*x);
    }
}

/// Writes, or adds, a tile of sums.
#[inline(always)]
fn store<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: [[S::f32s; V]; R],
    out: &mut [f32],
    add: bool,
) {
    let (out, _) = S::as_mut_simd_f32s(out);
    let (out, _) = out.as_chunks_mut::<V>();
    assert!(out.len() >= R, "{R} rows of sums");
    for (out, sums) in out.iter_mut().zip(sums) {
        for v in 0..V {
            out[v] = if add { simd.add_f32s(out[v], sums[v]) } else { sums[v] };
        }
    }
}

impl<S: Simd> Int8<S> {
    /// `word(k)` is word `k` of a row.
    #[inline(always)]
    fn row(self, b: &[u32], out: &mut [f32], add: bool, word: impl Fn(usize) -> u32) {
        let mut sums = [0_i32; MAX_WIDTH];
        let sums = &mut sums[..out.len()];
        for (k, b) in b.chunks_exact(out.len()).enumerate() {
            let a = word(k).to_le_bytes().map(i32::from);
            for (sum, b) in sums.iter_mut().zip(b) {
                let b = b.to_le_bytes().map(|b| i32::from(b.cast_signed()));
                *sum += a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if add { *out + *sum as f32 } else { *sum as f32 };
        }
    }
}

impl<S: Simd> TileKernel for Int8<S> {
    const LANES: usize = S::F32_LANES;
    const ROWS: usize = tile_rows::<S>();

    #[inline(always)]
    fn tile<const R: usize, const V: usize>(
        self,
        a: Words<'_>,
        b: &[u32],
        out: &mut [f32],
        add: bool,
    ) {
        for (r, out) in out.chunks_exact_mut(V * Self::LANES).take(R).enumerate() {
            self.row(b, out, add, |k| a.words[r * a.row_stride + k * a.word_stride]);
        }
    }
}
