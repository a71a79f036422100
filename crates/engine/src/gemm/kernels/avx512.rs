//! AVX-512's products of bf16 pairs and of byte quads.
//!
//! `vdpbf16ps` rounds to nearest, treats denormal numbers as zero and hands NaN and infinity on;
//! `vpdpbusd` is exact. Oracle: the kernels of `generic`.
#![expect(unsafe_code, reason = "instructions that Rust offers as intrinsics only")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_dpbf16_ps,
    _mm512_dpbusd_epi32, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_storeu_ps,
};

use crate::gemm::tile::{MAX_ROWS, TileKernel, Words};

const LANES: usize = 16;

/// Two bf16 per word, the first in the low half. Only made where the machine has the instruction.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Bf16(());

/// Four bytes per word: unsigned on the left, signed on the right. Only made where the machine has
/// the instruction.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Int8(());

impl Bf16 {
    pub(in crate::gemm) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(()))
    }
}

impl Int8 {
    pub(in crate::gemm) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }
}

/// Panics unless a tile of `R` rows lies inside the slices; gives the number of words summed over.
#[inline(always)]
fn check<const R: usize, const V: usize>(a: Words<'_>, b: &[u32], out: &[f32]) -> usize {
    let k = b.len() / (V * LANES);
    assert!(a.has(R, k), "{R} rows of {k} words");
    assert!(out.len() >= R * V * LANES, "{R} rows of sums");
    k
}

impl TileKernel for Bf16 {
    const LANES: usize = LANES;
    const ROWS: usize = MAX_ROWS;

    #[inline(always)]
    fn tile<const R: usize, const V: usize>(
        self,
        a: Words<'_>,
        b: &[u32],
        out: &mut [f32],
        add: bool,
    ) {
        let k = check::<R, V>(a, b, out);
        // SAFETY: `Self` exists only where the machine has the instructions; `check` bounds all reads
        // and writes.
        unsafe { bf16_tile::<R, V>(k, a, b.as_ptr(), out.as_mut_ptr(), add) }
    }
}

impl TileKernel for Int8 {
    const LANES: usize = LANES;
    const ROWS: usize = MAX_ROWS;

    #[inline(always)]
    fn tile<const R: usize, const V: usize>(
        self,
        a: Words<'_>,
        b: &[u32],
        out: &mut [f32],
        add: bool,
    ) {
        let k = check::<R, V>(a, b, out);
        // SAFETY: as above.
        unsafe { int8_tile::<R, V>(k, a, b.as_ptr(), out.as_mut_ptr(), add) }
    }
}

/// # Safety
/// The machine has AVX-512 BF16; `a` has `R` rows of `k` words, `b` `k · V · 16` words, `out`
/// `R · V · 16` numbers.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_tile<const R: usize, const V: usize>(
    k: usize,
    a: Words<'_>,
    b: *const u32,
    out: *mut f32,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: every offset is below the lengths the caller promises.
    unsafe {
        let mut from = a.words.as_ptr();
        let mut panel = b;
        for _ in 0..k {
            let mut b = [_mm512_setzero_si512(); V];
            for (v, b) in b.iter_mut().enumerate() {
                *b = _mm512_loadu_si512(panel.add(v * LANES).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32((*from.add(r * a.row_stride)).cast_signed());
                for v in 0..V {
                    sums[v] = _mm512_dpbf16_ps(sums[v], pairs(a), pairs(b[v]));
                }
            }
            from = from.wrapping_add(a.word_stride);
            panel = panel.add(V * LANES);
        }
        store(sums, out, add);
    }
}

/// # Safety
/// The machine has AVX-512 VNNI; lengths as of [`bf16_tile`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_tile<const R: usize, const V: usize>(
    k: usize,
    a: Words<'_>,
    b: *const u32,
    out: *mut f32,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_si512(); V]; R];
    // SAFETY: every offset is below the lengths the caller promises.
    unsafe {
        let mut from = a.words.as_ptr();
        let mut panel = b;
        for _ in 0..k {
            let mut b = [_mm512_setzero_si512(); V];
            for (v, b) in b.iter_mut().enumerate() {
                *b = _mm512_loadu_si512(panel.add(v * LANES).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32((*from.add(r * a.row_stride)).cast_signed());
                for v in 0..V {
                    sums[v] = _mm512_dpbusd_epi32(sums[v], a, b[v]);
                }
            }
            from = from.wrapping_add(a.word_stride);
            panel = panel.add(V * LANES);
        }
        let mut numbers = [[_mm512_setzero_ps(); V]; R];
        for (numbers, sums) in numbers.iter_mut().zip(sums) {
            for v in 0..V {
                numbers[v] = _mm512_cvtepi32_ps(sums[v]);
            }
        }
        store(numbers, out, add);
    }
}

/// The same bits as pairs of bf16.
#[target_feature(enable = "avx512f")]
fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}

/// # Safety
/// `out` has `R · V · 16` numbers.
#[target_feature(enable = "avx512f")]
unsafe fn store<const R: usize, const V: usize>(sums: [[__m512; V]; R], out: *mut f32, add: bool) {
    for (r, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: below `R · V · 16`.
            unsafe {
                let at = out.add((r * V + v) * LANES);
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(at), *sum) } else { *sum };
                _mm512_storeu_ps(at, sum);
            }
        }
    }
}
