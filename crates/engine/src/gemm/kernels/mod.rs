//! The innermost loops, a file per instruction set, and which of them a machine and a precision take.
//!
//! In:  words of two matrices. Out: sums of a tile.
//! `generic` runs on every machine; `avx512` has the instructions for bf16, bytes and transposing.
//! Oracle: the plain triple loop in the tests of `gemm`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod generic;
mod hints;

use pulp::{Arch, Simd, WithSimd};

use super::{packed::Precision, tile::TileKernel};

#[cfg(test)]
pub(super) use generic::{Bf16, F32, Int8};
pub(super) use hints::ask_to_write;
pub(crate) use hints::prefetch;

/// Work that multiplies.
pub(super) trait Multiplying {
    /// Does it. To be marked `#[inline(always)]`, with all that it calls, so that it is compiled for the
    /// machine's vectors.
    fn run<S: Simd, K: TileKernel>(self, simd: S, kernel: K);
}

/// Runs work with the machine's vectors and its fastest kernel of a precision.
#[inline]
pub(super) fn dispatch(work: impl Multiplying, precision: Precision) {
    Arch::new().dispatch(Dispatched { work, precision });
}

struct Dispatched<W> {
    work: W,
    precision: Precision,
}

impl<W: Multiplying> WithSimd for Dispatched<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.precision {
            Precision::F32 => self.work.run(simd, generic::F32(simd)),
            Precision::Bf16 => {
                #[cfg(target_arch = "x86_64")]
                if let Some(kernel) = avx512::Bf16::detect().filter(|_| S::F32_LANES == 16) {
                    return self.work.run(simd, kernel);
                }
                self.work.run(simd, generic::Bf16(simd));
            }
            Precision::Int8 => {
                #[cfg(target_arch = "x86_64")]
                if let Some(kernel) = avx512::Int8::detect().filter(|_| S::F32_LANES == 16) {
                    return self.work.run(simd, kernel);
                }
                self.work.run(simd, generic::Int8(simd));
            }
        }
    }
}

/// Rows and columns of a block that is transposed at once.
pub(super) const BLOCK: usize = 16;

/// Writes 16 words of 16 rows of `from` as 16 rows of `to`, the rows as far apart as told.
///
/// # Panics
/// When a slice is too short.
#[inline(always)]
pub(super) fn transpose_block(from: (&[u32], usize), to: (&mut [u32], usize)) {
    #[cfg(target_arch = "x86_64")]
    if let Some(transpose) = avx512::Transpose::detect() {
        return transpose.block(from, to);
    }
    generic::transpose_block(from, to);
}

/// Writes the nearest bf16 of each number; all that fit.
#[inline(always)]
pub(super) fn round(to: &mut [u16], from: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = avx512::Bf16::detect() {
        return kernel.round(to, from);
    }
    generic::round(to, from);
}
