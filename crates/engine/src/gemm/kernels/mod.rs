//! The innermost loops, a file per instruction set.
//!
//! In:  words of two matrices. Out: sums of a tile.
//! `generic` runs on every machine; `avx512` has the instructions for bf16, bytes and transposing.
//! Oracle: the plain triple loop in the tests of `gemm`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod generic;

pub(super) use generic::{Bf16, F32, Int8, ask_to_write};

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

/// Asks for numbers that will be read soon, where the machine can be asked.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    avx512::prefetch(values);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
