//! The multiply-adds of a pass, by instruction set.
//!
//! In:  groups of four neighbouring bytes, weights. Out: sums, rounded to bytes.
//! All kernels sum the same whole numbers, so they give the same bytes; `Plain` is the oracle.
//!
//! Instructions multiply numbers of 8 or 16 bits, and a weight has 24: it is cut into signed digits, each digit is
//! summed alone, and the sums are joined at the end.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "a kernel is called after its instructions were found; see SAFETY"
    )
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_packs_epi32,
    _mm512_packus_epi16, _mm512_permutexvar_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_srai_epi32,
};

#[cfg(target_arch = "x86_64")]
use pulp::{cast, x86::V3};

#[cfg(target_arch = "x86_64")]
use super::super::FRACTION_BITS;

use super::{
    super::{HALF, to_byte},
    Columns, Group, LANES, Lines, TAPS,
};

/// How a pass is computed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kernel {
    /// AVX-512 with `vpdpbusd`: weights in three digits of 8 bits.
    #[cfg(target_arch = "x86_64")]
    Bytes(V3),
    /// AVX2 with `vpmaddwd`: weights in two digits, the lower one of [`WORD`] bits.
    #[cfg(target_arch = "x86_64")]
    Words(V3),
    /// Everywhere.
    Plain,
}

/// Bits of the lower digit of a weight that is cut in two.
#[cfg(target_arch = "x86_64")]
const WORD: u32 = 12;

impl Kernel {
    /// The fastest of this machine.
    pub(super) fn best() -> Self {
        Self::all().next().expect("the plain one runs everywhere")
    }

    /// Those of this machine, the fastest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = V3::try_new().into_iter().flat_map(|v3| {
            let has_bytes = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            has_bytes.then_some(Self::Bytes(v3)).into_iter().chain([Self::Words(v3)])
        });
        #[cfg(not(target_arch = "x86_64"))]
        let special = std::iter::empty();
        special.chain([Self::Plain])
    }

    /// Four weights as this kernel takes them.
    pub(super) fn digits(self, taps: [i32; TAPS]) -> [i32; TAPS] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bytes(_) => {
                let digits = taps.map(byte_digits);
                let all = |i: usize| i32::from_le_bytes(digits.map(|d| d[i].cast_unsigned()));
                [all(0), all(1), all(2), 0]
            }
            #[cfg(target_arch = "x86_64")]
            Self::Words(_) => {
                let high = taps.map(|w| (w + (1 << (WORD - 1))) >> WORD);
                let low: [i32; TAPS] = std::array::from_fn(|i| taps[i] - (high[i] << WORD));
                let pair = |a: i32, b: i32| (a & 0xffff) | b << 16;
                let pairs = |w: [i32; TAPS]| [pair(w[0], w[2]), pair(w[1], w[3])];
                let ([a, b], [c, d]) = (pairs(high), pairs(low));
                [a, b, c, d]
            }
            Self::Plain => taps,
        }
    }

    /// Puts the pixels of a row into its place in all groups.
    pub(super) fn gather(self, pixels: &[u8], row: usize, groups: &mut [Group]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bytes(v3) | Self::Words(v3) => v3.vectorize(Gather { v3, pixels, row, groups }),
            Self::Plain => gather_from(0, pixels, row, groups),
        }
    }

    /// Sums every column of a block of rows.
    pub(super) fn sum(self, groups: &[Group], columns: &Columns, to: Lines<'_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `all` gives this kernel only where the three instruction sets were found.
            Self::Bytes(_) => unsafe { sum_bytes(groups, columns, to) },
            #[cfg(target_arch = "x86_64")]
            Self::Words(v3) => v3.vectorize(SumWords { v3, groups, columns, to }),
            Self::Plain => sum_plain(groups, columns, to),
        }
    }
}

/// `w` as digits of the values 65,536, 256 and 1.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::cast_possible_truncation, reason = "the low digit is meant; `w` has 24 bits")]
fn byte_digits(w: i32) -> [i8; 3] {
    let low = w as i8;
    let rest = (w - i32::from(low)) >> 8;
    let middle = rest as i8;
    let high = (rest - i32::from(middle)) >> 8;
    [high as i8, middle, low]
}

/// Puts the pixels from group `first` on into their places; behind the last one are zeros.
fn gather_from(first: usize, pixels: &[u8], row: usize, groups: &mut [Group]) {
    for (group, four) in groups[first..].iter_mut().zip(pixels[first * 12..].chunks(12)) {
        for c in 0..3 {
            let bytes = std::array::from_fn(|tap| four.get(tap * 3 + c).copied().unwrap_or(0));
            group[row * 3 + c] = i32::from_le_bytes(bytes);
        }
    }
}

fn sum_plain(groups: &[Group], columns: &Columns, mut to: Lines<'_>) {
    for (to, (groups, weights)) in to.iter().zip(columns.of(groups)) {
        let mut sums = [HALF; LANES];
        for (group, weights) in groups.iter().zip(weights) {
            for (sum, four) in sums.iter_mut().zip(group) {
                for (byte, weight) in four.to_le_bytes().into_iter().zip(weights) {
                    *sum += i32::from(byte) * weight;
                }
            }
        }
        *to = sums.map(to_byte);
    }
}

/// [`gather_from`] with one shuffle for four pixels.
#[cfg(target_arch = "x86_64")]
struct Gather<'a> {
    v3: V3,
    pixels: &'a [u8],
    row: usize,
    groups: &'a mut [Group],
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { v3, pixels, row, groups } = self;
        // The last four bytes are not looked at.
        let order: __m128i = cast([0_u8, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 12, 13, 14, 15]);
        let mut done = 0;
        for (group, start) in groups.iter_mut().zip((0..).step_by(12)) {
            let Some(sixteen) = pixels.get(start..).and_then(|rest| rest.first_chunk::<16>())
            else {
                break;
            };
            let four: [i32; 4] = cast(v3.ssse3._mm_shuffle_epi8(cast(*sixteen), order));
            group[row * 3..row * 3 + 3].copy_from_slice(&four[..3]);
            done += 1;
        }
        gather_from(done, pixels, row, groups);
    }
}

#[cfg(target_arch = "x86_64")]
struct SumWords<'a> {
    v3: V3,
    groups: &'a [Group],
    columns: &'a Columns,
    to: Lines<'a>,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for SumWords<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Vectors whose sums fit into the registers.
        const VECTORS: usize = 3;
        let Self { v3, groups, columns, mut to } = self;
        let avx2 = v3.avx2;
        let even = avx2_set1(v3, 0x00ff_00ff);
        for (to, (groups, weights)) in to.iter().zip(columns.of(groups)) {
            let mut sums = [0; LANES];
            for (part, sums) in sums.as_chunks_mut::<{ VECTORS * 8 }>().0.iter_mut().enumerate() {
                let (mut high, mut low) =
                    ([avx2_set1(v3, 0); VECTORS], [avx2_set1(v3, HALF); VECTORS]);
                for (group, weights) in groups.iter().zip(weights) {
                    let [w0, w1, w2, w3] = weights.map(|w| avx2_set1(v3, w));
                    let vectors = group.as_chunks::<8>().0[part * VECTORS..].iter();
                    for ((high, low), x) in high.iter_mut().zip(&mut low).zip(vectors) {
                        let x: __m256i = cast(*x);
                        let (a, b) =
                            (v3.avx2._mm256_and_si256(x, even), avx2._mm256_srli_epi16::<8>(x));
                        let add = |sum, a, b| {
                            let products = avx2._mm256_madd_epi16(a, b);
                            avx2._mm256_add_epi32(sum, products)
                        };
                        *high = add(add(*high, a, w0), b, w1);
                        *low = add(add(*low, a, w2), b, w3);
                    }
                }
                for (i, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let high = avx2._mm256_slli_epi32::<{ WORD as i32 }>(high[i]);
                    *sums = cast(avx2._mm256_add_epi32(high, low[i]));
                }
            }
            *to = sums.map(to_byte);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn avx2_set1(v3: V3, x: i32) -> __m256i {
    v3.avx._mm256_set1_epi32(x)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sum_bytes(groups: &[Group], columns: &Columns, mut to: Lines<'_>) {
    let half = _mm512_set1_epi32(HALF);
    let order = cast([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]);
    for (to, (groups, weights)) in to.iter().zip(columns.of(groups)) {
        let mut sums = [[_mm512_setzero_si512(); 3]; LANES / 16];
        for (group, weights) in groups.iter().zip(weights) {
            let digits = [0, 1, 2].map(|i| _mm512_set1_epi32(weights[i]));
            for (sums, x) in sums.iter_mut().zip(group.as_chunks::<16>().0) {
                let x: __m512i = cast(*x);
                for (sum, digit) in sums.iter_mut().zip(digits) {
                    *sum = _mm512_dpbusd_epi32(*sum, x, digit);
                }
            }
        }
        let [a, b, c] = sums.map(|[high, middle, low]| {
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), low);
            _mm512_srai_epi32::<FRACTION_BITS>(_mm512_add_epi32(sum, half))
        });
        // Packing works within quarters: their words are `a b c c`.
        let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, c));
        let bytes: [u8; 64] = cast(_mm512_permutexvar_epi32(order, bytes));
        to.copy_from_slice(&bytes[..LANES]);
    }
}
