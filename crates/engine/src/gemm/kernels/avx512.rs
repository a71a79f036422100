//! AVX-512's products of bf16 pairs and of byte quads, and its rounding to bf16.
//!
//! `vdpbf16ps` and `vcvtneps2bf16` round to nearest, treat denormal numbers as zero and hand NaN and infinity on;
//! `vpdpbusd` is exact. Oracle: the kernels of `generic`.
#![expect(unsafe_code, reason = "instructions that Rust offers as intrinsics only")]

use std::arch::x86_64::{
    __m256bh, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_permutex2var_epi32, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_ps, _mm512_storeu_si512,
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

impl Bf16 {
    /// Writes the nearest bf16 of each number; all that fit.
    #[inline(always)]
    pub(in crate::gemm) fn round(self, to: &mut [u16], from: &[f32]) {
        let n = to.len().min(from.len());
        let (whole, rest) = from[..n].as_chunks::<LANES>();
        let (to, to_rest) = to[..n].as_chunks_mut::<LANES>();
        for (to, x) in to.iter_mut().zip(whole) {
            // SAFETY: `Self` exists only where the machine has the instruction.
            unsafe { round(to, x) };
        }
        super::generic::round(to_rest, rest);
    }
}

/// # Safety
/// The machine has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round(to: &mut [u16; LANES], x: &[f32; LANES]) {
    // SAFETY: both are whole vectors, and 32 bytes of plain bits.
    unsafe {
        let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()));
        *to = std::mem::transmute::<__m256bh, [u16; LANES]>(rounded);
    }
}

impl Int8 {
    pub(in crate::gemm) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }
}

/// Transposes blocks of 16 by 16 words. Only made where the machine has AVX-512.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Transpose(());

impl Transpose {
    pub(in crate::gemm) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }

    /// Writes 16 words of 16 rows of `from` as 16 rows of `to`.
    ///
    /// # Panics
    /// When a slice is too short.
    #[inline(always)]
    pub(in crate::gemm) fn block(
        self,
        (from, from_stride): (&[u32], usize),
        (to, to_stride): (&mut [u32], usize),
    ) {
        assert!(15 * from_stride + LANES <= from.len(), "16 rows to read");
        assert!(15 * to_stride + LANES <= to.len(), "16 rows to write");
        // SAFETY: `Self` exists only where the machine has AVX-512; the lengths are checked.
        unsafe { transpose((from.as_ptr(), from_stride), (to.as_mut_ptr(), to_stride)) }
    }
}

/// In step `s` = 1, 2, 4, 8 rows `i` and `i + s` swap the words whose places differ in that bit.
///
/// # Safety
/// The machine has AVX-512; both hold 16 rows of 16 words, the strides apart.
#[target_feature(enable = "avx512f")]
unsafe fn transpose((from, from_stride): (*const u32, usize), (to, to_stride): (*mut u32, usize)) {
    const SWAPS: [[[u32; LANES]; 2]; 4] = {
        let mut swaps = [[[0; LANES]; 2]; 4];
        let mut step = 0;
        while step < 4 {
            let (bit, mut j) = (1 << step, 0);
            while j < LANES {
                let other = (LANES + (j ^ bit)) as u32;
                let moved = j & bit != 0;
                swaps[step][0][j] = if moved { other } else { j as u32 };
                swaps[step][1][j] = if moved { (LANES + j) as u32 } else { (j ^ bit) as u32 };
                j += 1;
            }
            step += 1;
        }
        swaps
    };
    // SAFETY: the caller promises the rows; the patterns are whole vectors.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(from.add(r * from_stride).cast());
        }
        for (step, patterns) in SWAPS.iter().enumerate() {
            let low = _mm512_loadu_si512(patterns[0].as_ptr().cast());
            let high = _mm512_loadu_si512(patterns[1].as_ptr().cast());
            for i in (0..LANES).filter(|i| i & (1 << step) == 0) {
                let (a, b) = (rows[i], rows[i | 1 << step]);
                rows[i] = _mm512_permutex2var_epi32(a, low, b);
                rows[i | 1 << step] = _mm512_permutex2var_epi32(a, high, b);
            }
        }
        for (r, row) in rows.iter().enumerate() {
            _mm512_storeu_si512(to.add(r * to_stride).cast(), *row);
        }
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
        // SAFETY: `Self` exists only where the machine has the instructions; all lengths are checked.
        unsafe { bf16_tile::<R, V>(k, a, b.as_ptr(), (out.as_mut_ptr(), add)) }
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
        // SAFETY: `Self` exists only where the machine has the instructions; all lengths are checked.
        unsafe { int8_tile::<R, V>(k, a, b.as_ptr(), (out.as_mut_ptr(), add)) }
    }
}

/// # Safety
/// The machine has AVX-512 BF16; `a` has `R` rows of `k` words, `b` has `k · V · 16`, `out` `R · V · 16` numbers.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_tile<const R: usize, const V: usize>(
    k: usize,
    a: Words<'_>,
    b: *const u32,
    (out, add): (*mut f32, bool),
) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: every offset is below the lengths the caller promises.
    unsafe {
        let rows: [_; R] = std::array::from_fn(|r| a.words.as_ptr().add(r * a.row_stride));
        for i in 0..k {
            let b = load::<V>(b.add(i * V * LANES));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32((*rows[r].add(i * a.word_stride)).cast_signed());
                for v in 0..V {
                    sums[v] = _mm512_dpbf16_ps(sums[v], pairs(a), pairs(b[v]));
                }
            }
        }
        store(sums, out, add);
    }
}

/// # Safety
/// The machine has AVX-512 VNNI; `a` has `R` rows of `k` words, `b` has `k · V · 16`, `out` `R · V · 16` numbers.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_tile<const R: usize, const V: usize>(
    k: usize,
    a: Words<'_>,
    b: *const u32,
    (out, add): (*mut f32, bool),
) {
    let mut sums = [[_mm512_setzero_si512(); V]; R];
    // SAFETY: every offset is below the lengths the caller promises.
    unsafe {
        let rows: [_; R] = std::array::from_fn(|r| a.words.as_ptr().add(r * a.row_stride));
        for i in 0..k {
            let b = load::<V>(b.add(i * V * LANES));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32((*rows[r].add(i * a.word_stride)).cast_signed());
                for v in 0..V {
                    sums[v] = _mm512_dpbusd_epi32(sums[v], a, b[v]);
                }
            }
        }
        store(numbers(sums), out, add);
    }
}

/// # Safety
/// There are `V · 16` words.
#[target_feature(enable = "avx512f")]
unsafe fn load<const V: usize>(words: *const u32) -> [__m512i; V] {
    let mut vectors = [_mm512_setzero_si512(); V];
    for (v, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: below `V · 16`.
        *vector = unsafe { _mm512_loadu_si512(words.add(v * LANES).cast()) };
    }
    vectors
}

/// Sums of integers as numbers.
#[target_feature(enable = "avx512f")]
fn numbers<const R: usize, const V: usize>(sums: [[__m512i; V]; R]) -> [[__m512; V]; R] {
    let mut numbers = [[_mm512_setzero_ps(); V]; R];
    for (numbers, sums) in numbers.iter_mut().zip(sums) {
        for (number, sum) in numbers.iter_mut().zip(sums) {
            *number = _mm512_cvtepi32_ps(sum);
        }
    }
    numbers
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
