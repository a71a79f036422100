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
pub(crate) use left::{Left, Level, Row, convert, round_row};
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

/// `[inner, cols]`, row-major: a matrix whose rows a product sums over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    numbers: Numbers<'a>,
    inner: usize,
    cols: usize,
}

/// What [`Rows`] are made of.
#[derive(Debug, Clone, Copy)]
enum Numbers<'a> {
    F32(&'a [f32]),
    /// Already rounded, in rows of whole words.
    Bf16(&'a [u16]),
}

impl<'a> Rows<'a> {
    /// Rows of numbers.
    ///
    /// # Panics
    /// When `values` does not fill whole rows.
    pub(crate) fn of(values: &'a [f32], cols: usize) -> Self {
        assert!(cols > 0 && values.len().is_multiple_of(cols), "rows of {cols}");
        Self { numbers: Numbers::F32(values), inner: values.len() / cols, cols }
    }

    /// Rows of words as [`convert`] makes them.
    ///
    /// # Panics
    /// When `words` does not fill whole rows, or the precision is that of bytes.
    pub(crate) fn of_words(words: &'a [f32], cols: usize, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::of(words, cols),
            Precision::Bf16 => {
                let stride = precision.words(cols);
                assert!(cols > 0 && words.len().is_multiple_of(stride), "rows of {stride} words");
                let numbers = Numbers::Bf16(bytemuck::cast_slice(words));
                Self { numbers, inner: words.len() / stride, cols }
            }
            Precision::Int8 => unreachable!("gradients are not computed of bytes"),
        }
    }

    /// The rows `from..to`.
    fn part(self, from: usize, to: usize) -> Self {
        let numbers = match self.numbers {
            Numbers::F32(values) => Numbers::F32(&values[from * self.cols..to * self.cols]),
            Numbers::Bf16(halves) => {
                let stride = self.stride();
                Numbers::Bf16(&halves[from * stride..to * stride])
            }
        };
        Self { numbers, inner: to - from, cols: self.cols }
    }

    /// Numbers from a row to the next.
    fn stride(self) -> usize {
        match self.numbers {
            Numbers::F32(_) => self.cols,
            Numbers::Bf16(_) => self.cols.next_multiple_of(Precision::Bf16.per_word()),
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
    a: Rows<'_>,
    b: Rows<'_>,
    (precision, add): (Precision, bool),
    pool: &Pool,
) {
    assert!(a.inner == b.inner && out.len() == a.cols * b.cols, "[m, n] = aᵀ · b");
    if a.inner == 0 {
        if !add {
            out.fill(0.0);
        }
        return;
    }
    by_inner::multiply(out, a, b, (precision, add), pool);
}

#[cfg(test)]
mod tests;
