//! Running plain loops with the best vector instructions of the machine.
//!
//! In:  a closure of plain Rust loops. Out: its result.
//! The closure is compiled once per instruction set (SSE2, AVX2+FMA, AVX-512) and chosen at run time
//! by `pulp`, so that one build runs everywhere and nothing here is `unsafe`.

use rayon::prelude::*;

/// Runs `f` compiled for the widest vectors this machine has.
///
/// Only what is inlined is. So closures handed to this and to the functions below are marked
/// `#[inline(always)]`, and what they do is written as loops: `for_each`, `fold` and `map` over arrays are
/// functions of their own, compiled without vectors.
#[inline]
pub fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Number of accumulators in a reduction: enough for one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// Values per parallel block: large enough to pay for the hand-over, small enough to stay in L2.
const BLOCK_VALUES: usize = 16 << 10;

/// Rows of width `cols` that make one parallel block. Depends on sizes only, never on threads, so
/// that sums over blocks have a fixed order.
pub(crate) fn rows_per_block(cols: usize) -> usize {
    (BLOCK_VALUES / cols.max(1)).max(1)
}

/// Calls `f(first_row, rows)` for blocks of rows of `out`, on all threads, vectorised.
pub(crate) fn for_row_blocks(
    out: &mut [f32],
    cols: usize,
    f: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let rows = rows_per_block(cols);
    if out.len() <= rows * cols {
        return vectorize(
            #[inline(always)]
            || f(0, out),
        );
    }
    out.par_chunks_mut(rows * cols).enumerate().for_each(|(block, out)| {
        vectorize(
            #[inline(always)]
            || f(block * rows, out),
        )
    });
}

/// As [`for_row_blocks`], and gives what `f` returned, in order of the blocks.
pub(crate) fn map_row_blocks<R: Send>(
    out: &mut [f32],
    cols: usize,
    f: impl Fn(usize, &mut [f32]) -> R + Send + Sync,
) -> Vec<R> {
    let rows = rows_per_block(cols);
    out.par_chunks_mut(rows * cols)
        .enumerate()
        .map(|(block, out)| {
            vectorize(
                #[inline(always)]
                || f(block * rows, out),
            )
        })
        .collect()
}

/// Sums `f(first_row, n_rows, partial)` over blocks of `m` rows into `out`, in a fixed order.
pub(crate) fn sum_row_blocks(
    m: usize,
    cols: usize,
    out: &mut [f32],
    f: impl Fn(usize, usize, &mut [f32]) + Send + Sync,
) {
    let rows = rows_per_block(cols);
    let partials: Vec<Vec<f32>> = (0..m.div_ceil(rows))
        .into_par_iter()
        .map(|block| {
            let mut partial = vec![0.0; out.len()];
            let first = block * rows;
            vectorize(
                #[inline(always)]
                || f(first, rows.min(m - first), &mut partial),
            );
            partial
        })
        .collect();
    for partial in &partials {
        vectorize(
            #[inline(always)]
            || add_assign(out, partial),
        );
    }
}

/// `y += x`
#[inline(always)]
pub(crate) fn add_assign(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `Σ x · y`, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    let tail: f32 = x_tail.iter().zip(y_tail).map(|(x, y)| x * y).sum();
    sum_lanes(&lanes) + tail
}

/// `Σ x`, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (xs, tail) = x.as_chunks::<LANES>();
    for x in xs {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    sum_lanes(&lanes) + tail.iter().sum::<f32>()
}

/// The largest value; `-inf` of nothing.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    max_of(x, |x| x)
}

/// The largest `f(x)`; `-inf` of nothing.
#[inline(always)]
pub(crate) fn max_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (xs, tail) = x.as_chunks::<LANES>();
    for x in xs {
        for i in 0..LANES {
            let x = f(x[i]);
            lanes[i] = if x > lanes[i] { x } else { lanes[i] };
        }
    }
    lanes.into_iter().chain(tail.iter().map(|x| f(*x))).fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum_lanes(lanes: &[f32; LANES]) -> f32 {
    let mut half = [0.0_f32; LANES / 2];
    for i in 0..LANES / 2 {
        half[i] = lanes[i] + lanes[i + LANES / 2];
    }
    half.iter().sum()
}
