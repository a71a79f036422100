//! Matrix products behind a checked interface.
//!
//! In:  strided views. Out: `out = a · b`, or `out += a · b`.
//! Many rows (`by_rows`) and long inner dimensions (`by_inner`) run on the engine's own register tile;
//! the rest, where packing would not pay, on the `gemm` crate. Which, is told by the shapes alone.
//! This file has the engine's only `unsafe`: the crate takes raw pointers; every view is checked
//! against its slice when it is made. Oracle: the plain triple loop in the tests.
#![expect(
    unsafe_code,
    reason = "the `gemm` crate takes raw pointers; views are bounds-checked here"
)]

mod by_inner;
mod by_rows;
mod panels;
pub(crate) mod small;
mod tile;

use crate::{simd, vectorize};

/// A read-only matrix view, `[rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A writable row-major matrix view, `[rows, cols]`, rows `cols` apart.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
}

impl<'a> MatRef<'a> {
    /// A row-major matrix that fills `data`.
    ///
    /// # Panics
    /// When `data` has not `rows · cols` values.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a [{rows}, {cols}] matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A matrix whose rows lie `stride` apart in `data`.
    pub(crate) fn rows_apart(data: &'a [f32], (rows, cols): (usize, usize), stride: usize) -> Self {
        assert!((rows - 1) * stride + cols <= data.len(), "[{rows}, {cols}] rows {stride} apart");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    fn is_row_major(self) -> bool {
        self.col_stride == 1 && self.row_stride == self.cols
    }

    /// The same values seen transposed; nothing is moved.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatMut<'a> {
    /// A row-major matrix that fills `data`.
    ///
    /// # Panics
    /// When `data` has not `rows · cols` values.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a [{rows}, {cols}] matrix");
        Self { data, rows, cols }
    }
}

/// Multiply-adds below which one thread is faster than handing work over.
const PARALLEL_FROM: usize = 1 << 16;
/// Rows from which packing the right matrix pays.
const MANY_ROWS: usize = 48;
/// Inner length from which `aᵀ · b` is cut into slices.
const LONG_INNER: usize = 128;

/// `out = a · b`, or `out += a · b` with `add`, on all threads.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(out: &mut MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, add: bool) {
    check_shapes(out, a, b);
    let (m, n, k) = (out.rows, out.cols, a.cols);
    if m * n == 0 || k == 0 {
        if !add {
            out.data.fill(0.0);
        }
    } else if m * n * k < PARALLEL_FROM {
        multiply_by_crate(out, a, b, add);
    } else if a.is_row_major() && m >= MANY_ROWS {
        by_rows::multiply(out.data, a.data, b, add, |_, _| {});
    } else if a.transposed().is_row_major() && b.is_row_major() && k >= LONG_INNER {
        by_inner::multiply(out.data, a.data, b.data, (m, n), add);
    } else {
        multiply_by_crate(out, a, b, add);
    }
}

/// `out = a · b`, with `finish(first_row, rows)` on finished rows, on all threads and vectorised.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn matmul_then(
    out: &mut MatMut<'_>,
    a: MatRef<'_>,
    b: MatRef<'_>,
    finish: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    check_shapes(out, a, b);
    if out.rows >= MANY_ROWS && a.cols > 0 && out.cols > 0 && a.is_row_major() {
        by_rows::multiply(out.data, a.data, b, false, |first, rows| {
            vectorize(|| finish(first, rows));
        });
    } else {
        matmul(out, a, b, false);
        simd::for_row_blocks(out.data, out.cols, finish);
    }
}

fn check_shapes(out: &MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>) {
    assert!(
        a.rows == out.rows && b.rows == a.cols && b.cols == out.cols,
        "[{},{}] = [{},{}] · [{},{}]",
        out.rows,
        out.cols,
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
}

fn multiply_by_crate(out: &mut MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, add: bool) {
    let (m, n, k) = (out.rows, out.cols, a.cols);
    let parallelism = if m * n * k < PARALLEL_FROM {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(0)
    };
    // SAFETY: `MatRef::new` and `MatMut::new` checked that each slice holds exactly the view's values
    // and `transposed` only swaps the strides, so every (row, column) lies inside its slice; `out` is
    // a unique borrow and cannot overlap `a` or `b`; callers checked that the shapes fit.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, salt: u32) -> Vec<f32> {
        let step = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(salt) >> 8;
        (0..n).map(|i| step(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// Small, by rows (several blocks, two depths, odd tails), by inner dimension (several slices).
    const SHAPES: [(usize, usize, usize); 11] = [
        (1, 1, 1),
        (3, 5, 7),
        (17, 33, 65),
        (64, 48, 100),
        (5, 4, 0),
        (0, 3, 2),
        (48, 70, 40),
        (301, 49, 27),
        (70, 20, 500),
        (24, 27, 1600),
        (100, 50, 1100),
    ];

    #[test]
    fn agrees_with_a_plain_triple_loop() {
        for (m, n, k) in SHAPES {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            for (transpose_a, transpose_b, add) in [
                (false, false, false),
                (true, false, true),
                (false, true, false),
                (true, true, true),
            ] {
                let av = if transpose_a {
                    MatRef::new(&a, k, m).transposed()
                } else {
                    MatRef::new(&a, m, k)
                };
                let bv = if transpose_b {
                    MatRef::new(&b, n, k).transposed()
                } else {
                    MatRef::new(&b, k, n)
                };
                let mut out = vec![0.5; m * n];
                matmul(&mut MatMut::new(&mut out, m, n), av, bv, add);
                for i in 0..m {
                    for j in 0..n {
                        let expected: f64 = (0..k)
                            .map(|x| {
                                let a = if transpose_a { a[x * m + i] } else { a[i * k + x] };
                                let b = if transpose_b { b[j * k + x] } else { b[x * n + j] };
                                f64::from(a * b)
                            })
                            .sum::<f64>()
                            + if add { 0.5 } else { 0.0 };
                        let error = f64::from(out[i * n + j]) - expected;
                        let tolerance = 1e-6 * k.max(100) as f64;
                        assert!(error.abs() < tolerance, "{m} {n} {k} at {i},{j}: {error}");
                    }
                }
            }
        }
    }
}
