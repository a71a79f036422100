//! Products against a plain triple loop in `f64`, tiles against each other.

use pulp::Scalar;

use super::{
    kernels,
    packed::to_bf16,
    tile::{TileKernel, Words},
    *,
};
use crate::Activation;

fn values(n: usize, salt: u32) -> Vec<f32> {
    let step = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(salt) >> 8;
    (0..n).map(|i| step(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn widened(x: f32) -> f32 {
    f32::from_bits(u32::from(to_bf16(x)) << 16)
}

/// One row and column, odd sizes, tails of every kind, several blocks of rows, panels and depths.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (3, 5, 7),
    (17, 33, 65),
    (64, 48, 100),
    (8, 96, 2),
    (301, 49, 27),
    (50, 70, 1500),
    (130, 20, 411),
    (2, 144, 800),
];

/// `a · bᵀ` of rows `a` and `b`, in `f64`.
fn plain(a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) -> Vec<f64> {
    let dot = |i: usize, j: usize| {
        let pairs = a[i * k..(i + 1) * k].iter().zip(&b[j * k..(j + 1) * k]);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    (0..m).flat_map(|i| (0..n).map(move |j| dot(i, j))).collect()
}

/// `out` = the product of rows `a` and packed rows `b`, in a precision.
fn product(
    a: &[f32],
    b: &[f32],
    (m, n, k): (usize, usize, usize),
    precision: Precision,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    let pool = Pool::default();
    let right = PackedMatrix::pack(MatRef::new(b, n, k).transposed(), precision, &pool);
    let mut words = vec![0.0; m * precision.words(k)];
    let mut levels = vec![[0.0; 2]; if precision == Precision::Int8 { m } else { 0 }];
    convert(&mut words, &mut levels, k, precision, |i, _| Row::Given(&a[i * k..(i + 1) * k]));
    let mut out = vec![0.5; m * n];
    Product { left: Left::words(&words, m, &levels), right: &right, epilogue }.run(&mut out);
    out
}

fn assert_near(found: &[f32], expected: impl Iterator<Item = f64>, tolerance: f64, what: &str) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance, "{what}: {found} for {expected} at {i}");
    }
}

#[test]
fn f32_agrees_with_a_triple_loop_to_1e_6_of_the_sum_of_magnitudes() {
    for shape @ (m, n, k) in SHAPES {
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        let out = product(&a, &b, shape, Precision::F32, Epilogue::NONE);
        let expected = plain(&a, &b, shape).into_iter();
        assert_near(&out, expected, 1e-6 * k.max(10) as f64, &format!("{shape:?}"));
    }
}

#[test]
fn bf16_is_the_product_of_rounded_numbers() {
    for shape @ (m, n, k) in SHAPES {
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        let out = product(&a, &b, shape, Precision::Bf16, Epilogue::NONE);
        let round = |x: &[f32]| x.iter().map(|x| widened(*x)).collect::<Vec<_>>();
        let expected = plain(&round(&a), &round(&b), shape).into_iter();
        assert_near(&out, expected, 2e-6 * k.max(10) as f64, &format!("{shape:?}"));
    }
}

/// The reading of a row as bytes, computed plainly.
fn row_of_bytes(x: &[f32]) -> Vec<f32> {
    let least = x.iter().copied().fold(f32::INFINITY, f32::min);
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (most - least) / 255.0;
    let byte = |x: &f32| if scale == 0.0 { 0.0 } else { ((x - least) / scale).round_ties_even() };
    x.iter().map(|x| byte(x) * scale + least).collect()
}

fn weights_of_bytes(w: &[f32]) -> Vec<f32> {
    let scale = w.iter().fold(0.0_f32, |most, w| most.max(w.abs())) / 127.0;
    w.iter().map(|w| (w / scale).round_ties_even() * scale).collect()
}

#[test]
fn int8_is_the_product_of_quantised_numbers() {
    for shape @ (m, n, k) in SHAPES {
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        let out = product(&a, &b, shape, Precision::Int8, Epilogue::NONE);
        let a: Vec<f32> = a.chunks_exact(k).flat_map(row_of_bytes).collect();
        let b: Vec<f32> = b.chunks_exact(k).flat_map(weights_of_bytes).collect();
        // A number halfway between two bytes may go either way: a few steps of 2/255.
        let tolerance = 0.01 + 2e-5 * k as f64;
        assert_near(&out, plain(&a, &b, shape).into_iter(), tolerance, &format!("{shape:?}"));
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (m, n, k) = (203, 100, 900);
    let (a, b) = (values(m * k, 3), values(n * k, 4));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let all = product(&a, &b, (m, n, k), precision, Epilogue::NONE);
        for i in [0, 7, 100, 202] {
            let row = &a[i * k..(i + 1) * k];
            let alone = product(row, &b, (1, n, k), precision, Epilogue::NONE);
            assert_eq!(alone, all[i * n..(i + 1) * n], "row {i} in {precision:?}");
        }
    }
}

#[test]
fn the_epilogue_adds_bias_activation_factors_and_residual() {
    let shape @ (m, n, k) = (19, 53, 40);
    let (a, b) = (values(m * k, 1), values(n * k, 2));
    let (bias, factors, residual) = (values(n, 3), values(n, 4), values(m * n, 5));
    let relu = |bias| Epilogue { bias, activation: Activation::Relu, ..Epilogue::NONE };
    let whole = Epilogue {
        factors: Some(&factors),
        residual: Some(&residual),
        ..relu(Some(bias.as_slice()))
    };
    let out = product(&a, &b, shape, Precision::F32, whole);
    let z = plain(&a, &b, shape);
    let act = |i: usize| (z[i] + f64::from(bias[i % n])).max(0.0);
    let expected = |i| f64::from(residual[i]) + f64::from(factors[i % n]) * act(i);
    assert_near(&out, (0..m * n).map(expected), 1e-5, "residual");
    let added = product(&a, &b, shape, Precision::F32, Epilogue { add: true, ..relu(Some(&bias)) });
    assert_near(&added, (0..m * n).map(|i| 0.5 + act(i)), 1e-5, "added");
}

#[test]
fn what_is_not_finite_stays_so_in_its_row_or_column() {
    let (m, n, k) = (5, 20, 33);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let (mut a, mut b) = (values(m * k, 1), values(n * k, 2));
            (a[2 * k + 5], b[3 * k + 7]) = (bad, bad);
            let out = product(&a, &b, (m, n, k), precision, Epilogue::NONE);
            for (i, y) in out.iter().enumerate() {
                let expected = i / n == 2 || i % n == 3;
                assert_eq!(!y.is_finite(), expected, "{bad} in {precision:?} at {i}: {y}");
            }
        }
    }
}

#[test]
fn rounding_to_bf16_is_to_the_nearest_even() {
    assert_eq!(to_bf16(1.0), 0x3f80);
    assert_eq!(to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80, "a half goes to even");
    assert_eq!(to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
    assert_eq!(to_bf16(f32::from_bits(0x3f80_8001)), 0x3f81);
    assert_eq!(to_bf16(f32::MAX), 0x7f80, "rounds to infinity");
    assert_eq!(to_bf16(f32::NEG_INFINITY), 0xff80);
    assert!(f32::from_bits(u32::from(to_bf16(f32::from_bits(0x7fff_ffff))) << 16).is_nan());
}

#[test]
fn rounding_many_is_rounding_each() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, 1.003_906_2];
    let all: Vec<f32> = values(77, 3).into_iter().chain(special).collect();
    let mut many = vec![0; all.len()];
    kernels::round(&mut many, &all);
    for (x, rounded) in all.iter().zip(&many) {
        let widened = f32::from_bits(u32::from(*rounded) << 16);
        assert!(*rounded == to_bf16(*x) || (x.is_nan() && widened.is_nan()), "{x}: {rounded:x}");
    }
}

/// Rows as [`convert`] writes them.
fn words(rows: &[f32], cols: usize, precision: Precision) -> Vec<f32> {
    let mut words = vec![0.0; rows.len() / cols * precision.words(cols)];
    convert(&mut words, &mut [], cols, precision, |i, _| Row::Given(&rows[i * cols..][..cols]));
    words
}

#[test]
fn the_gradient_of_a_weight_agrees_with_a_triple_loop() {
    for (m, n, inner) in [(1, 1, 3), (24, 27, 5003), (70, 20, 500), (9, 100, 64), (200, 130, 513)] {
        let (a, b) = (values(inner * m, 1), values(inner * n, 2));
        let turn = |x: &[f32], cols: usize| -> Vec<f32> {
            (0..cols).flat_map(|c| x.iter().skip(c).step_by(cols).copied()).collect()
        };
        for precision in [Precision::F32, Precision::Bf16] {
            for add in [false, true] {
                let mut out = vec![0.5; m * n];
                let (a_ref, b_ref) = (Rows::of(&a, m), Rows::of(&b, n));
                let pool = Pool::default();
                multiply_transposed(&mut out, a_ref, b_ref, (precision, add), &pool);
                let (a_words, b_words) = (words(&a, m, precision), words(&b, n, precision));
                let mut of_words = vec![0.5; m * n];
                multiply_transposed(
                    &mut of_words,
                    Rows::of_words(&a_words, m, precision),
                    Rows::of_words(&b_words, n, precision),
                    (precision, add),
                    &pool,
                );
                assert_eq!(out, of_words, "rows that are rounded before");
                let seen = |x: &[f32]| -> Vec<f32> {
                    let rounds = precision == Precision::Bf16;
                    x.iter().map(|x| if rounds { widened(*x) } else { *x }).collect()
                };
                let expected = plain(&seen(&turn(&a, m)), &seen(&turn(&b, n)), (m, n, inner));
                let start = if add { 0.5 } else { 0.0 };
                let what = format!("{m} {n} {inner} {precision:?}");
                let tolerance = 1e-6 * inner.max(100) as f64;
                assert_near(&out, expected.into_iter().map(|x| x + start), tolerance, &what);
            }
        }
    }
}

/// A tile of some numbers of rows and vectors.
type Tile<'a> = &'a dyn Fn(Words<'_>, &[u32], &mut [f32]);

/// Runs a tile of every number of rows and vectors and gives all sums.
fn sums_of<K: TileKernel>(kernel: K, a: &[u32], b: &[u32], k: usize) -> Vec<f32> {
    let mut all = Vec::new();
    let mut run = |rows: usize, width: usize, tile: Tile<'_>| {
        for (row_stride, word_stride) in [(k + 3, 1), (1, 8)] {
            let mut out = vec![0.25; rows * width];
            tile(Words { words: a, row_stride, word_stride }, &b[..k * width], &mut out);
            all.extend(out);
        }
    };
    run(1, K::LANES, &|a, b, out| kernel.tile::<1, 1>(a, b, out, true));
    run(4, 3 * K::LANES, &|a, b, out| kernel.tile::<4, 3>(a, b, out, false));
    run(3, 2 * K::LANES, &|a, b, out| kernel.tile::<3, 2>(a, b, out, true));
    all
}

/// The same by [`Scalar`], which has one column a vector: columns of a panel one by one.
fn plain_sums<K: TileKernel>(lanes: usize, kernel: K, a: &[u32], b: &[u32], k: usize) -> Vec<f32> {
    assert_eq!(K::LANES, 1);
    let mut all = Vec::new();
    for (rows, vectors, add) in [(1, 1, true), (4, 3, false), (3, 2, true)] {
        let width = vectors * lanes;
        for (row_stride, word_stride) in [(k + 3, 1), (1, 8)] {
            for row in 0..rows {
                for column in 0..width {
                    let b: Vec<u32> = (0..k).map(|k| b[k * width + column]).collect();
                    let words = &a[row * row_stride..];
                    let mut out = [0.25];
                    let a = Words { words, row_stride, word_stride };
                    kernel.tile::<1, 1>(a, &b, &mut out, add);
                    all.extend(out);
                }
            }
        }
    }
    all
}

#[test]
fn every_instruction_set_sums_as_the_scalar_one() {
    let k = 37;
    let words = |n: usize, salt: u32| -> Vec<u32> {
        let pairs = values(2 * n, salt);
        let (pairs, _) = pairs.as_chunks::<2>();
        pairs.iter().map(|[x, y]| u32::from(to_bf16(*x)) | u32::from(to_bf16(*y)) << 16).collect()
    };
    let (a, b) = (words(8 * (k + 3), 1), words(48 * k, 2));
    let singles: (Vec<u32>, Vec<u32>) = (
        values(8 * (k + 3), 1).iter().map(|x| x.to_bits()).collect(),
        values(48 * k, 2).iter().map(|x| x.to_bits()).collect(),
    );
    let near = |found: Vec<f32>, expected: Vec<f32>, what: &str| {
        assert_eq!(found.len(), expected.len());
        assert_near(&found, expected.iter().map(|x| f64::from(*x)), 2e-5, what);
    };
    let scalar = Scalar::new();
    let all = |lanes: usize| {
        (
            plain_sums(lanes, kernels::F32(scalar), &singles.0, &singles.1, k),
            plain_sums(lanes, kernels::Bf16(scalar), &a, &b, k),
            plain_sums(lanes, kernels::Int8(scalar), &a, &b, k),
        )
    };
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(v3) = pulp::x86::V3::try_new() {
            let (f32s, bf16s, bytes) = all(8);
            near(sums_of(kernels::F32(v3), &singles.0, &singles.1, k), f32s, "AVX2 f32");
            near(sums_of(kernels::Bf16(v3), &a, &b, k), bf16s, "AVX2 bf16");
            assert_eq!(sums_of(kernels::Int8(v3), &a, &b, k), bytes, "AVX2 bytes");
        }
        let (f32s, bf16s, bytes) = all(16);
        if let Some(v4) = pulp::x86::V4::try_new() {
            near(sums_of(kernels::F32(v4), &singles.0, &singles.1, k), f32s, "AVX-512 f32");
        }
        if let Some(kernel) = kernels::avx512::Bf16::detect() {
            near(sums_of(kernel, &a, &b, k), bf16s, "AVX-512 bf16");
        }
        if let Some(kernel) = kernels::avx512::Int8::detect() {
            assert_eq!(sums_of(kernel, &a, &b, k), bytes, "AVX-512 bytes");
        }
    }
    let (f32s, _, bytes) = all(1);
    near(sums_of(kernels::F32(scalar), &singles.0, &singles.1, k), f32s, "scalar f32");
    assert_eq!(sums_of(kernels::Int8(scalar), &a, &b, k), bytes, "scalar bytes");
}

#[test]
fn blocks_are_transposed_as_word_by_word() {
    let (from_stride, to_stride) = (19, 33);
    let from: Vec<u32> = (0..16 * from_stride as u32).collect();
    let mut found = vec![7; 16 * to_stride];
    let mut expected = found.clone();
    kernels::transpose_block((&from, from_stride), (&mut found, to_stride));
    kernels::generic::transpose_block((&from, from_stride), (&mut expected, to_stride));
    assert_eq!(found, expected);
    assert_eq!(found[2 * to_stride + 5], from[5 * from_stride + 2]);
}
