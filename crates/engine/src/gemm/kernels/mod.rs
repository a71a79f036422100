//! The innermost loops, a file per instruction set.
//!
//! In:  words of two matrices. Out: sums of a tile.
//! `pulp_f32` and `plain` run on every machine; `avx512` has the instructions for bf16 and bytes.
//! Oracle: the plain triple loop in the tests of `gemm`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod generic;

pub(super) use generic::{Bf16, F32, Int8};
