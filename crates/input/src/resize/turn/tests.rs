//! Every kernel of this machine against sums written out.

use proptest::prelude::*;

use super::{super::Interpolation, *};
use crate::resize::{HALF, to_byte};

fn noise(n: usize, seed: u32) -> Vec<u8> {
    let value = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(40_503) >> 13;
    (0..n as u32).map(|i| value(i) as u8).collect()
}

fn expected(rows: &[u8], stride: usize, weights: &Weights) -> Vec<u8> {
    let mut out = Vec::new();
    for column in 0..weights.runs.len() {
        let (first, values) = weights.of(column);
        for row in rows.chunks(stride) {
            for c in 0..3 {
                let at = |tap: usize| i32::from(row[(weights.origin + first + tap) * 3 + c]);
                let sum: i32 = values.iter().enumerate().map(|(tap, w)| at(tap) * w).sum();
                out.push(to_byte(HALF + sum));
            }
        }
    }
    out
}

#[track_caller]
fn check(rows: &[u8], stride: usize, weights: &Weights) {
    let expected = expected(rows, stride, weights);
    let n_rows = rows.len() / stride;
    for kernel in Kernel::all() {
        let found = turn_by(kernel, rows, stride, weights);
        let lines = found.chunks(line_bytes(n_rows)).flat_map(|line| &line[..n_rows * 3]);
        assert!(lines.eq(&expected), "{kernel:?}");
    }
}

#[test]
fn sums_at_the_limits_are_exact() {
    for kind in [Interpolation::Bilinear, Interpolation::Bicubic] {
        for (n_in, n_out) in [(40, 7), (7, 40), (1, 5), (5, 1), (300, 3)] {
            let weights = Weights::new(n_in, n_out, (0, n_out), kind);
            for row in [vec![0, 255, 128], vec![255; 3], vec![255, 0, 0, 0, 0, 0]] {
                let rows: Vec<u8> = row.iter().copied().cycle().take(n_in * 3 * 17).collect();
                check(&rows, n_in * 3, &weights);
            }
        }
    }
}

proptest! {
    #[test]
    fn prop_kernels_agree_with_plain_sums(
        (n_in, n_rows, n_out) in (1..90_usize, 1..40_usize, 1..70_usize),
        cut in [any::<prop::sample::Index>(), any::<prop::sample::Index>()],
        surplus in 0..7_usize,
        seed: u32,
    ) {
        let start = cut[0].index(n_out);
        let n = 1 + cut[1].index(n_out - start);
        let stride = n_in * 3 + surplus;
        for kind in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let weights = Weights::new(n_in, n_out, (start, n), kind);
            check(&noise(stride * n_rows, seed), stride, &weights);
        }
    }
}
