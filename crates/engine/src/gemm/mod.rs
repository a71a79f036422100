//! Matrix products.
//!
//! In:  a left matrix read in rows, a right one packed for the register tile. Out: `f32`.
//! `product` shares a product out and finishes its sums; `packed` and `left` bring the matrices into the
//! form the tile reads; `kernels` has the innermost loops; `by_inner` is the gradient of a weight.
//! Oracle: the plain triple loop in the tests.

mod by_inner;
mod kernels;
mod left;
mod packed;
mod product;
pub(crate) mod small;
mod tile;

pub use packed::Precision;

pub(crate) use kernels::prefetch;
pub(crate) use left::{Left, Level, Row, convert};
pub(crate) use packed::PackedMatrix;
pub(crate) use product::{Epilogue, Product};
pub(crate) use tile::{TileKernel, Words};

use crate::tensor::Pool;

/// A read-only matrix view, `[rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A row-major matrix that fills `data`.
    ///
    /// # Panics
    /// When `data` has not `rows · cols` values.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a [{rows}, {cols}] matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A matrix whose rows lie `stride` apart in `data`.
    pub(crate) fn rows_apart(data: &'a [f32], (rows, cols): (usize, usize), stride: usize) -> Self {
        assert!((rows - 1) * stride + cols <= data.len(), "[{rows}, {cols}] rows {stride} apart");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The same values seen transposed; nothing is moved.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = aᵀ · b`, or `out += aᵀ · b`, on all threads.
///
/// # Shapes
/// `a`: `[inner, m]`, `b`: `[inner, n]`, `out`: `[m, n]`, row-major.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn multiply_transposed(
    out: &mut [f32],
    a: MatRef<'_>,
    b: MatRef<'_>,
    (precision, add): (Precision, bool),
    pool: &Pool,
) {
    let (m, n) = (a.cols, b.cols);
    assert!(a.rows == b.rows && out.len() == m * n, "[{m}, {n}] = aᵀ · b");
    if m * n == 0 || a.rows == 0 {
        if !add {
            out.fill(0.0);
        }
        return;
    }
    by_inner::multiply(out, (a.data, b.data), (m, n), (precision, add), pool);
}

#[cfg(test)]
mod tests;
