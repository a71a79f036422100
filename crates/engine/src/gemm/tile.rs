//! The register tile: a few rows by a few vectors of a product, summed over the inner dimension.
//!
//! In:  words of a left matrix, a packed panel of the right one. Out: sums, row by row.
//! A word is four bytes along the inner dimension: one `f32`, two bf16 or four bytes. Every sum runs
//! over the inner dimension in order, so results do not depend on how rows are cut into tiles.
//! Not here: the loops over words (`kernels`).

use pulp::{Arch, Simd, WithSimd};

/// Vectors per panel: with eight rows they fill 24 of 32 registers, with four 12 of 16.
pub(super) const VECTORS: usize = 3;

/// The most rows of a tile on any machine.
pub(super) const MAX_ROWS: usize = 8;

/// The most columns of a panel on any machine.
pub(super) const MAX_WIDTH: usize = VECTORS * 16;

/// The size of a tile on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileSize {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Values of a vector.
    pub(crate) lanes: usize,
}

impl TileSize {
    pub(crate) fn of_machine() -> Self {
        struct Query;
        impl WithSimd for Query {
            type Output = TileSize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _simd: S) -> TileSize {
                TileSize { rows: tile_rows::<S>(), lanes: S::F32_LANES }
            }
        }
        Arch::new().dispatch(Query)
    }

    /// Columns of a full panel.
    pub(crate) fn panel_width(self) -> usize {
        VECTORS * self.lanes
    }
}

/// Rows of a tile with these vectors.
pub(super) const fn tile_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { MAX_ROWS } else { 4 }
}

/// Words of some rows of a left matrix: word `k` of row `r` is `words[r · row_stride + k · word_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(super) words: &'a [u32],
    pub(super) row_stride: usize,
    pub(super) word_stride: usize,
}

impl<'a> Words<'a> {
    /// Rows one behind the other, `stride` words apart.
    #[inline(always)]
    pub(crate) fn rows(words: &'a [u32], stride: usize) -> Self {
        Self { words, row_stride: stride, word_stride: 1 }
    }

    /// The columns of a matrix of words whose rows lie `stride` apart.
    #[inline(always)]
    pub(crate) fn columns(words: &'a [u32], stride: usize) -> Self {
        Self { words, row_stride: 1, word_stride: stride }
    }

    /// The rows from `row` on, from word `k` on.
    #[inline(always)]
    pub(super) fn from(self, row: usize, k: usize) -> Self {
        Self { words: &self.words[row * self.row_stride + k * self.word_stride..], ..self }
    }

    /// The rows as slices, where each is contiguous.
    #[inline(always)]
    pub(super) fn slices<const R: usize>(self, k: usize) -> Option<[&'a [u32]; R]> {
        (self.word_stride == 1)
            .then(|| std::array::from_fn(|r| &self.words[r * self.row_stride..][..k]))
    }

    /// Whether the words of `rows` rows alternate.
    #[inline(always)]
    pub(super) fn alternates(self, rows: usize) -> bool {
        self.row_stride == 1 && self.word_stride == rows
    }

    /// Whether `rows` rows of `k` words lie inside the slice.
    #[inline(always)]
    pub(super) fn has(self, rows: usize, k: usize) -> bool {
        rows == 0
            || k == 0
            || (rows - 1) * self.row_stride + (k - 1) * self.word_stride < self.words.len()
    }
}

/// Sums products of words over the inner dimension.
pub(crate) trait TileKernel: Copy {
    /// Values of a vector.
    const LANES: usize;
    /// The most rows of a tile.
    const ROWS: usize;

    /// `out[r] (+)= Σₖ a[r, k] · b[k]` for `R` rows and `V` vectors of columns.
    ///
    /// # Shapes
    /// `a`: `[R, k]` words, `b`: `[k, V · LANES]` words, `out`: `[R, V · LANES]`.
    ///
    /// # Panics
    /// When a slice is too short.
    fn tile<const R: usize, const V: usize>(
        self,
        a: Words<'_>,
        b: &[u32],
        out: &mut [f32],
        add: bool,
    );
}

/// A tile of `rows` rows, at most [`MAX_ROWS`].
#[inline(always)]
pub(super) fn tile_of<K: TileKernel, const V: usize>(
    kernel: K,
    rows: usize,
    (a, b): (Words<'_>, &[u32]),
    out: &mut [f32],
    add: bool,
) {
    match rows {
        1 => kernel.tile::<1, V>(a, b, out, add),
        2 => kernel.tile::<2, V>(a, b, out, add),
        3 => kernel.tile::<3, V>(a, b, out, add),
        4 => kernel.tile::<4, V>(a, b, out, add),
        5 => kernel.tile::<5, V>(a, b, out, add),
        6 => kernel.tile::<6, V>(a, b, out, add),
        7 => kernel.tile::<7, V>(a, b, out, add),
        _ => kernel.tile::<8, V>(a, b, out, add),
    }
}
