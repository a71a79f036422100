//! Matrix products on the `gemm` crate, behind a checked interface.
//!
//! In:  strided views. Out: `out = a · b`, or `out += a · b`.
//! This is the engine's one module with `unsafe`: the crate takes raw pointers; every view is checked
//! against its slice when it is made. Oracle: the plain triple loop in the tests.
#![expect(
    unsafe_code,
    reason = "the `gemm` crate takes raw pointers; views are bounds-checked here"
)]

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

/// `out = a · b`, or `out += a · b` with `add`, on all threads.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`.
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(out: &mut MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, add: bool) {
    let (m, n, k) = (out.rows, out.cols, a.cols);
    assert!(
        a.rows == m && b.rows == k && b.cols == n,
        "[{m},{n}] = [{},{k}] · [{},{}]",
        a.rows,
        b.rows,
        b.cols
    );
    if m * n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            out.data.fill(0.0);
        }
        return;
    }
    let parallelism = if m * n * k < PARALLEL_FROM {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(0)
    };
    // SAFETY: `MatRef::new` and `MatMut::new` checked that each slice holds exactly the view's values
    // and `transposed` only swaps the strides, so every (row, column) lies inside its slice; `out` is
    // a unique borrow and cannot overlap `a` or `b`; the shapes were checked to fit just above.
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

    #[test]
    fn agrees_with_a_plain_triple_loop() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (64, 48, 100), (5, 4, 0), (0, 3, 2)] {
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
                        let expected: f32 = (0..k)
                            .map(|x| {
                                let a = if transpose_a { a[x * m + i] } else { a[i * k + x] };
                                let b = if transpose_b { b[j * k + x] } else { b[x * n + j] };
                                a * b
                            })
                            .sum::<f32>()
                            + if add { 0.5 } else { 0.0 };
                        assert!((out[i * n + j] - expected).abs() < 1e-4, "{m} {n} {k} at {i},{j}");
                    }
                }
            }
        }
    }
}
