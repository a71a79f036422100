//! A product with its epilogue: `out (+)= residual + γ ∘ act'(kept) ∘ act(a · b + bias)`.
//!
//! In:  a [`Left`] and a [`PackedMatrix`] of one precision. Out: rows of `f32`.
//! Blocks of rows and groups of panels go to the threads. A panel is summed over the inner dimension for
//! a block of rows in memory of the thread, and from there written once, through the epilogue. A number
//! is summed in the same order whatever the number of rows, so a row does not depend on its batch.
#![expect(unsafe_code, reason = "tasks write rectangles of one matrix that do not overlap")]

use std::{marker::PhantomData, ops::Range};

use pulp::Simd;
use rayon::prelude::*;

use super::{
    kernels::{self, Multiplying},
    left::Left,
    packed::PackedMatrix,
    tile::{MAX_WIDTH, TileKernel, VECTORS, tile_of},
};
use crate::Activation;

/// Words of the inner dimension summed at once: a panel of them stays in the second-level cache.
const DEPTH: usize = 768;
/// Rows of one task.
const MAX_BLOCK: usize = 192;
/// Words of the left matrix in one task: a part of the second-level cache.
const BLOCK_WORDS: usize = 160 << 10;
/// Tasks per thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 8;
/// Products of words below which one thread is faster than handing work over.
const PARALLEL_FROM: usize = 1 << 17;

/// What becomes of the sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// `[n]`
    pub(crate) bias: Option<&'a [f32]>,
    /// Of sum and bias.
    pub(crate) activation: Activation,
    /// Whose derivative at these `[m, n]` numbers the activated sum is multiplied with, as
    /// [`Activation::scale_gradient`] does.
    pub(crate) derivative: Option<(Activation, &'a [f32])>,
    /// `γ`, `[n]`
    pub(crate) factors: Option<&'a [f32]>,
    /// `[m, n]`
    pub(crate) residual: Option<&'a [f32]>,
    /// Whether the result is added to what is there.
    pub(crate) add: bool,
}

impl Epilogue<'_> {
    /// The sums as they are.
    pub(crate) const NONE: Self = Self {
        bias: None,
        activation: Activation::Identity,
        derivative: None,
        factors: None,
        residual: None,
        add: false,
    };
}

/// One product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product<'a> {
    /// `[m, k]`
    pub(crate) left: Left<'a>,
    /// `[k, n]`
    pub(crate) right: &'a PackedMatrix,
    /// What becomes of the sums.
    pub(crate) epilogue: Epilogue<'a>,
}

impl Product<'_> {
    /// Computes it on all threads.
    ///
    /// # Shapes
    /// `out`: `[m, n]`, row-major.
    pub(crate) fn run(self, out: &mut [f32]) {
        let (m, n) = (self.left.rows, self.right.n);
        assert_eq!(out.len(), m * n, "a [{m}, {n}] result");
        let work = m * n * self.right.k_words;
        if m * n == 0 {
            return;
        }
        if work < PARALLEL_FROM || rayon::current_num_threads() == 1 {
            return self.run_here(out);
        }
        let (row_blocks, groups) = self.grid(rayon::current_num_threads());
        let panels = self.right.panels();
        let out = Rectangles::new(out, n);
        (0..row_blocks * groups).into_par_iter().with_max_len(1).for_each(|task| {
            // Neighbouring tasks share a group of panels.
            let (block, group) = (task % row_blocks, task / row_blocks);
            let rows = self.block(block, row_blocks);
            let panels = group * panels / groups..(group + 1) * panels / groups;
            // SAFETY: blocks of rows and groups of panels do not overlap, so no two tasks write to one
            // place; `out` has the product's shape.
            unsafe { self.run_block(rows, panels, &out) };
        });
    }

    /// As [`Product::run`], on the calling thread.
    pub(crate) fn run_here(self, out: &mut [f32]) {
        let (m, n) = (self.left.rows, self.right.n);
        assert_eq!(out.len(), m * n, "a [{m}, {n}] result");
        let out = Rectangles::new(out, n);
        let blocks = m.div_ceil(self.most_rows());
        for block in 0..blocks {
            // SAFETY: one thread writes; the result lies inside `out`.
            unsafe { self.run_block(self.block(block, blocks), 0..self.right.panels(), &out) };
        }
    }

    /// The rows of one of `n` blocks; whole tiles, as a packed left matrix needs them.
    fn block(&self, i: usize, n: usize) -> Range<usize> {
        let tile = self.right.size.rows;
        let tiles = self.left.rows.div_ceil(tile);
        let first = |i: usize| (i * tiles / n * tile).min(self.left.rows);
        first(i)..first(i + 1)
    }

    fn most_rows(&self) -> usize {
        let depth = self.right.k_words.max(1);
        (BLOCK_WORDS / depth).clamp(16, MAX_BLOCK).next_multiple_of(8)
    }

    /// Numbers of blocks of rows and of groups of panels.
    fn grid(&self, threads: usize) -> (usize, usize) {
        let blocks = self.left.rows.div_ceil(self.most_rows());
        let groups = (TASKS_PER_THREAD * threads).div_ceil(blocks).min(self.right.panels());
        (blocks, groups)
    }

    /// # Safety
    /// `out` has the product's shape, and nobody else touches these rows and panels of it.
    unsafe fn run_block(&self, rows: Range<usize>, panels: Range<usize>, out: &Rectangles<'_>) {
        // SAFETY: as promised by the caller.
        kernels::dispatch(Block { product: self, rows, panels, out }, self.right.precision);
    }
}

/// A matrix that several tasks write to, each to its own rows and columns.
struct Rectangles<'a> {
    values: *mut f32,
    len: usize,
    stride: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: `row` is unsafe and promises that no two borrows overlap.
unsafe impl Sync for Rectangles<'_> {}

impl<'a> Rectangles<'a> {
    fn new(values: &'a mut [f32], stride: usize) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), stride, lifetime: PhantomData }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// Nobody else holds a number of them.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "callers promise that borrows do not overlap")]
    unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        let at = row * self.stride + columns.start;
        assert!(at + columns.len() <= self.len, "row {row} of the result");
        // SAFETY: inside the slice, and the caller promises that it is the only borrow.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), columns.len()) }
    }
}

/// Some rows and panels of a product. Whoever makes one promises that nobody else writes there.
struct Block<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    out: &'a Rectangles<'a>,
}

/// The sums of a block of rows and a panel.
#[repr(align(64))]
struct Sums([f32; (MAX_BLOCK + 8) * MAX_WIDTH]);

impl Multiplying for Block<'_> {
    #[inline(always)]
    fn run<S: Simd, K: TileKernel>(self, simd: S, kernel: K) {
        const { assert!(VECTORS == 3, "one arm per number of vectors") };
        let mut sums = Sums([0.0; (MAX_BLOCK + 8) * MAX_WIDTH]);
        for panel in self.panels.clone() {
            let first = panel * VECTORS * K::LANES;
            match (self.product.right.n - first).div_ceil(K::LANES) {
                1 => self.panel::<S, K, 1>((simd, kernel), first, &mut sums),
                2 => self.panel::<S, K, 2>((simd, kernel), first, &mut sums),
                _ => self.panel::<S, K, VECTORS>((simd, kernel), first, &mut sums),
            }
        }
    }
}

impl Block<'_> {
    /// All rows of one panel, whose first column is `first`.
    #[inline(always)]
    fn panel<S: Simd, K: TileKernel, const V: usize>(
        &self,
        (simd, kernel): (S, K),
        first: usize,
        sums: &mut Sums,
    ) {
        let Product { left, right, .. } = *self.product;
        let width = V * K::LANES;
        let (begin, end) = (self.rows.start, self.rows.end);
        let tiles = (end - begin).div_ceil(K::ROWS);
        for from in (0..right.k_words).step_by(DEPTH) {
            let to = right.k_words.min(from + DEPTH);
            let b = right.panel(first, width, (from, to));
            for tile in 0..tiles {
                let row = left.split((begin, end), tiles, tile);
                let rows = row..left.split((begin, end), tiles, tile + 1);
                let (a, sums) = (left.at(row, from), &mut sums.0[(row - begin) * width..]);
                if to == right.k_words {
                    self.ask_for(rows.clone(), first..right.n.min(first + width));
                }
                tile_of::<K, V>(kernel, rows.len(), (a, b), sums, from > 0);
                if to < right.k_words {
                    continue;
                }
                if first + width <= right.n {
                    self.finish::<S, V, true>(simd, first, rows, sums);
                } else {
                    self.finish::<S, V, false>(simd, first, rows, sums);
                }
            }
        }
    }

    /// Asks for the memory that the epilogue of some rows writes and reads, to be there when the sums are:
    /// places of a panel in neighbouring rows lie too far apart to be guessed.
    #[inline(always)]
    fn ask_for(&self, rows: Range<usize>, columns: Range<usize>) {
        let Product { right, epilogue, .. } = *self.product;
        for row in rows {
            // SAFETY: whoever made the block promised that these rows and panels are its own.
            kernels::ask_to_write(unsafe { self.out.row(row, columns.clone()) });
            let read = epilogue.residual.or(epilogue.derivative.map(|(_, kept)| kept));
            if let Some(read) = read {
                kernels::prefetch(&read[row * right.n..][columns.clone()]);
            }
        }
    }

    /// Writes some rows of the columns of a panel from column `first` on. Unless `WHOLE`, the last vector is partly
    /// behind the last column.
    #[inline(always)]
    fn finish<S: Simd, const V: usize, const WHOLE: bool>(
        &self,
        simd: S,
        first: usize,
        rows: Range<usize>,
        sums: &[f32],
    ) {
        let Product { left, right, epilogue } = *self.product;
        let n = if WHOLE { V * S::F32_LANES } else { right.n - first };
        let of_columns = |values: &[f32]| load::<S, V, WHOLE>(simd, &values[first..first + n]);
        let zeros = [simd.splat_f32s(0.0); V];
        let bias = epilogue.bias.map_or(zeros, of_columns);
        let factors = epilogue.factors.map_or(zeros, of_columns);
        let (mut scales, mut shifts) = (zeros, zeros);
        if !left.levels.is_empty() {
            scales = of_columns(&right.columns.scales);
            shifts = of_columns(&right.columns.sums);
        }
        let (sums, _) = S::as_simd_f32s(sums);
        let (sums, _) = sums.as_chunks::<V>();
        // Loops, not `map`: a closure behind the library's own functions is compiled without the machine's
        // vectors.
        for (row, sums) in rows.zip(sums) {
            let mut z = *sums;
            if let Some(level) = left.levels.get(row) {
                let (scale, offset) = (simd.splat_f32s(level[0]), simd.splat_f32s(level[1]));
                for v in 0..V {
                    let shift = simd.mul_f32s(shifts[v], offset);
                    z[v] = simd.mul_add_e_f32s(simd.mul_f32s(scales[v], scale), z[v], shift);
                }
            }
            for v in 0..V {
                z[v] = epilogue.activation.of(simd, simd.add_f32s(z[v], bias[v]));
            }
            if let Some((activation, kept)) = epilogue.derivative {
                let kept = load::<S, V, WHOLE>(simd, &kept[row * right.n + first..][..n]);
                for v in 0..V {
                    z[v] = simd.mul_f32s(z[v], activation.derivative_of(simd, kept[v]));
                }
            }
            if epilogue.factors.is_some() {
                for v in 0..V {
                    z[v] = simd.mul_f32s(z[v], factors[v]);
                }
            }
            // SAFETY: whoever made the block promised that these rows and panels are its own.
            let out = unsafe { self.out.row(row, first..first + n) };
            let other = match epilogue.residual {
                Some(residual) => Some(&residual[row * right.n + first..][..n]),
                None if epilogue.add => Some(&*out),
                None => None,
            };
            if let Some(other) = other {
                let other = load::<S, V, WHOLE>(simd, other);
                for v in 0..V {
                    z[v] = simd.add_f32s(other[v], z[v]);
                }
            }
            store::<S, V, WHOLE>(simd, out, z);
        }
    }
}

/// `V` vectors; unless `WHOLE`, zeros behind the last value.
#[inline(always)]
fn load<S: Simd, const V: usize, const WHOLE: bool>(simd: S, x: &[f32]) -> [S::f32s; V] {
    let mut vectors = [simd.splat_f32s(0.0); V];
    for (v, vector) in vectors.iter_mut().enumerate() {
        let from = x.len().min(v * S::F32_LANES);
        let values = &x[from..x.len().min(from + S::F32_LANES)];
        *vector = if WHOLE { S::as_simd_f32s(values).0[0] } else { simd.partial_load_f32s(values) };
    }
    vectors
}

#[inline(always)]
fn store<S: Simd, const V: usize, const WHOLE: bool>(simd: S, out: &mut [f32], z: [S::f32s; V]) {
    if WHOLE {
        let (out, _) = S::as_mut_simd_f32s(out);
        for (out, z) in out.iter_mut().zip(z) {
            *out = z;
        }
    } else {
        let parts = out.chunks_mut(S::F32_LANES).zip(z);
        for (out, z) in parts {
            simd.partial_store_f32s(out, z);
        }
    }
}
