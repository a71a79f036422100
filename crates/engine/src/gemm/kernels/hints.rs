//! Hints to the caches, where the machine takes them: they change no number.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "instructions that Rust offers as intrinsics only")
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};

/// Values of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 16;

/// Asks for numbers that will be read soon, into the second-level cache.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE) {
        // SAFETY: a hint; it reads nothing, and the address lies inside the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Asks for memory that will be written soon.
#[inline(always)]
pub(in crate::gemm) fn ask_to_write(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE) {
        // SAFETY: a hint; it writes nothing, and the address lies inside the slice.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
