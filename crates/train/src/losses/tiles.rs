//! A matrix of similarities of a batch, tile by tile, so that it is never held as a whole.
//!
//! In:  a batch, which of its sides are compared, a scale.
//! Out: tiles of logits to look at; from tiles of `dL/dlogit`, the gradients of both sides.
//! Not here: what a loss does with a logit (its own file).
//!
//! Row blocks come one after the other; the tiles of one row block (a strip) are worked on in
//! parallel. Every sum has one owner and one order, so the result does not depend on the number of
//! threads.

use std::ops::Range;

use conjoin_core::Embeddings;
use rayon::prelude::*;

use super::{Batch, Negatives, false_negatives::Between};
use crate::{
    kernels::{inner_product, vectorized},
    matmul::{Left, PANEL, Panels, multiply_add},
};

/// Rows and columns of a tile: one tile and the documents behind it fit the second-level cache.
pub(super) const BLOCK: usize = 128;
/// Rows of the rows' gradient that one task computes.
const ROW_GROUP: usize = 32;
/// The logit of a pair that is left out; its exponential is exactly zero.
pub(super) const LEFT_OUT: f32 = f32::MIN;

/// Which similarities of a batch are looked at.
#[derive(Clone, Copy)]
pub(super) struct Grid<'a> {
    batch: Batch<'a>,
    between: Between,
    negatives: Negatives,
    /// Hard negatives per query.
    m: usize,
}

impl<'a> Grid<'a> {
    /// Queries `[b]` against documents `[b·(1+m)]`.
    pub(super) fn queries_documents(batch: Batch<'a>, negatives: Negatives) -> Self {
        Self::new(batch, Between::QueriesAndDocuments, negatives)
    }

    /// Queries `[b]` against other queries `[b]`.
    pub(super) fn queries(batch: Batch<'a>) -> Self {
        Self::new(batch, Between::Queries, Negatives::All)
    }

    /// Own documents `[b]` against the documents `[b·(1+m)]` of other queries.
    pub(super) fn documents(batch: Batch<'a>) -> Self {
        Self::new(batch, Between::Documents, Negatives::All)
    }

    fn new(batch: Batch<'a>, between: Between, negatives: Negatives) -> Self {
        let m = batch.n_negatives();
        batch.false_negatives.assert_fits(batch.queries.len(), batch.documents.len());
        Self { batch, between, negatives, m }
    }

    fn b(&self) -> usize {
        self.batch.queries.len()
    }

    fn width(&self) -> usize {
        self.batch.queries.width()
    }

    /// The values of the rows, `[b, e]`.
    fn rows(&self) -> &'a [f32] {
        match self.between {
            Between::QueriesAndDocuments | Between::Queries => self.batch.queries.values(),
            Between::Documents => &self.batch.documents.values()[..self.b() * self.width()],
        }
    }

    /// The values of the columns, `[n, e]`.
    fn columns(&self) -> &'a [f32] {
        match self.between {
            Between::Queries => self.batch.queries.values(),
            Between::QueriesAndDocuments | Between::Documents => self.batch.documents.values(),
        }
    }

    /// The columns of query `row`'s hard negatives.
    fn own_negatives(&self, row: usize) -> Range<usize> {
        let first = self.b() + row * self.m;
        first..first + self.m
    }

    /// Whether any of the rows looks at any of the columns.
    fn meet(&self, rows: &Range<usize>, columns: &Range<usize>) -> bool {
        let first = self.own_negatives(rows.start).start;
        let last = self.own_negatives(rows.end - 1).end;
        columns.start < self.b()
            || self.negatives == Negatives::All
            || (columns.start < last && first < columns.end)
    }

    /// Sets what is no negative to [`LEFT_OUT`].
    fn leave_out(&self, tile: &mut Tile) {
        let others_hidden = self.negatives == Negatives::Own && tile.columns.start >= self.b();
        if others_hidden {
            tile.keep(|row| self.own_negatives(row));
        }
        if self.between != Between::QueriesAndDocuments {
            tile.hide(|row| row..row + 1);
        }
        if self.between == Between::Documents {
            tile.hide(|row| self.own_negatives(row));
        }
        self.leave_false_negatives_out(tile);
    }

    fn leave_false_negatives_out(&self, tile: &mut Tile) {
        let (rows, columns) = (tile.rows.clone(), tile.columns.clone());
        let leave_out = |i, j| tile.row_mut(i)[j - columns.start] = LEFT_OUT;
        let same = self.batch.false_negatives;
        same.for_each_left_out(self.between, rows, columns.clone(), leave_out);
    }
}

/// The operands of all tiles, packed once.
pub(super) struct Blocks<'a> {
    grid: Grid<'a>,
    scale: f32,
    block: usize,
    /// Own documents (or queries) first; hard negatives begin a block of their own.
    column_blocks: Vec<Range<usize>>,
    scaled_rows: Vec<f32>,
    row_rows: Vec<Panels>,
    column_rows: Vec<Panels>,
    column_columns: Vec<Panels>,
}

/// Logits of some rows and columns; a loss turns them into `dL/dlogit` in place.
pub(super) struct Tile {
    /// None where no row looks at any column.
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    stride: usize,
    values: Vec<f32>,
}

impl Tile {
    /// The rows with their position in the batch, writable.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = (usize, &mut [f32])> {
        let n = self.columns.len();
        let rows = self.values.chunks_exact_mut(self.stride).map(move |row| &mut row[..n]);
        self.rows.clone().zip(rows)
    }

    /// The rows with their position in the batch.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let n = self.columns.len();
        let rows = self.values.chunks_exact(self.stride).map(move |row| &row[..n]);
        self.rows.clone().zip(rows)
    }

    /// Where the matching pair of batch row `row` is in a row of this tile.
    pub(super) fn own(&self, row: usize) -> Option<usize> {
        self.columns.contains(&row).then(|| row - self.columns.start)
    }

    fn left(&self, first_row: usize) -> Left<'_> {
        Left { values: &self.values[first_row * self.stride..], row: self.stride, step: 1 }
    }

    fn transposed(&self) -> Left<'_> {
        Left { values: &self.values, row: 1, step: self.stride }
    }

    /// Where a range of columns of the batch is in a row of this tile.
    fn part(&self, columns: &Range<usize>) -> Range<usize> {
        let within =
            |column: usize| column.clamp(self.columns.start, self.columns.end) - self.columns.start;
        within(columns.start)..within(columns.end)
    }

    fn hide(&mut self, columns: impl Fn(usize) -> Range<usize>) {
        for row in self.rows.clone() {
            let part = self.part(&columns(row));
            self.row_mut(row)[part].fill(LEFT_OUT);
        }
    }

    fn keep(&mut self, columns: impl Fn(usize) -> Range<usize>) {
        for row in self.rows.clone() {
            let part = self.part(&columns(row));
            let row = self.row_mut(row);
            row[..part.start].fill(LEFT_OUT);
            row[part.end..].fill(LEFT_OUT);
        }
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let first = (row - self.rows.start) * self.stride;
        &mut self.values[first..first + self.columns.len()]
    }

    fn clear(&mut self) {
        self.rows = 0..0;
        self.values = Vec::new();
    }
}

impl<'a> Blocks<'a> {
    /// Packs the operands for tiles of `block` rows and columns.
    pub(super) fn new(grid: Grid<'a>, scale: f32, block: usize) -> Self {
        let (b, e) = (grid.b(), grid.width());
        let n = grid.columns().len() / e;
        let column_blocks: Vec<_> = ranges(0..b, block).chain(ranges(b..n, block)).collect();
        let row_blocks: Vec<_> = ranges(0..b, block).collect();
        let scaled_rows: Vec<f32> = grid.rows().iter().map(|v| v * scale).collect();
        let pack = |blocks: &[Range<usize>], values: &[f32], pack: fn(&[f32], usize) -> Panels| {
            blocks.par_iter().map(|rows| pack(&values[rows.start * e..rows.end * e], e)).collect()
        };
        Self {
            grid,
            scale,
            block,
            row_rows: pack(&row_blocks, &scaled_rows, Panels::from_rows),
            column_rows: pack(&column_blocks, grid.columns(), Panels::from_rows),
            column_columns: pack(&column_blocks, grid.columns(), Panels::from_columns),
            column_blocks,
            scaled_rows,
        }
    }

    /// Number of rows `b`.
    pub(super) fn len(&self) -> usize {
        self.grid.b()
    }

    /// Rows and columns of a tile.
    pub(super) fn block(&self) -> usize {
        self.block
    }

    /// Shows every strip of logits in turn: the tiles of one row block, in order of their columns.
    pub(super) fn for_each_strip(&self, mut visit: impl FnMut(usize, &mut [Tile])) {
        let tiles = self.column_blocks.iter().map(|columns| {
            let stride = columns.len().next_multiple_of(PANEL);
            Tile { rows: 0..0, columns: columns.clone(), stride, values: Vec::new() }
        });
        let mut strip: Vec<Tile> = tiles.collect();
        for (row_block, rows) in ranges(0..self.len(), self.block).enumerate() {
            strip.par_iter_mut().zip(&self.column_columns).for_each(|(tile, columns)| {
                self.fill(tile, &rows, columns);
            });
            visit(row_block, &mut strip);
        }
    }

    /// Turns every tile of logits into `dL/dlogit` by `differentiate` and gathers the gradients of
    /// the rows `[b, e]` and of the columns `[n, e]`; `merge` sees what it returned, in order of
    /// rows, then columns.
    pub(super) fn gradients<R: Send>(
        &self,
        differentiate: impl Fn(&mut Tile) -> R + Sync,
        mut merge: impl FnMut(R),
    ) -> (Embeddings, Embeddings) {
        let (b, e) = (self.len(), self.grid.width());
        let (n, width) = (self.grid.columns().len() / e, e.next_multiple_of(PANEL));
        let mut d_rows = vec![0.0; b * width];
        let mut d_columns = vec![0.0; n * width];
        self.for_each_strip(|row_block, strip| {
            let (own, negatives) = d_columns.split_at_mut(b * width);
            let size = self.block * width;
            let d_columns = own.par_chunks_mut(size).chain(negatives.par_chunks_mut(size));
            let parts: Vec<Option<R>> = strip
                .par_iter_mut()
                .zip(d_columns)
                .map(|(tile, d_columns)| {
                    let looked_at = !tile.rows.is_empty();
                    looked_at.then(|| {
                        let part = differentiate(tile);
                        let rows = &self.row_rows[row_block];
                        multiply_add(tile.transposed(), rows, d_columns, width);
                        part
                    })
                })
                .collect();
            parts.into_iter().flatten().for_each(&mut merge);
            let first = row_block * size;
            self.add_d_rows(strip, &mut d_rows[first..(first + size).min(b * width)], width);
        });
        (self.unpad(d_rows, width, self.scale), self.unpad(d_columns, width, 1.0))
    }

    /// `dL/dlog_scale` from the rows' gradient: both sum `dL/dlogit · logit`.
    pub(super) fn d_log_scale(&self, d_rows: &Embeddings) -> f64 {
        let rows = self.grid.rows().chunks_exact(self.grid.width()).zip(d_rows.rows());
        vectorized(|| rows.map(|(row, d_row)| inner_product(row, d_row)).sum())
    }

    fn add_d_rows(&self, strip: &[Tile], d_rows: &mut [f32], width: usize) {
        d_rows.par_chunks_mut(ROW_GROUP * width).enumerate().for_each(|(group, d_rows)| {
            let tiles = strip.iter().zip(&self.column_rows);
            for (tile, columns) in tiles.filter(|(tile, _)| !tile.rows.is_empty()) {
                multiply_add(tile.left(group * ROW_GROUP), columns, d_rows, width);
            }
        });
    }

    fn fill(&self, tile: &mut Tile, rows: &Range<usize>, columns: &Panels) {
        if !self.grid.meet(rows, &tile.columns) {
            tile.clear();
            return;
        }
        let e = self.grid.width();
        tile.rows = rows.clone();
        tile.values.clear();
        tile.values.resize(rows.len() * tile.stride, 0.0);
        let values = &self.scaled_rows[rows.start * e..rows.end * e];
        multiply_add(Left { values, row: e, step: 1 }, columns, &mut tile.values, tile.stride);
        self.grid.leave_out(tile);
    }

    fn unpad(&self, padded: Vec<f32>, width: usize, scale: f32) -> Embeddings {
        let e = self.grid.width();
        let mut out = Embeddings::zeros(padded.len() / width, e);
        let rows = out.values_mut().chunks_exact_mut(e).zip(padded.chunks_exact(width));
        for (out, row) in rows {
            out.iter_mut().zip(row).for_each(|(out, value)| *out = value * scale);
        }
        out
    }
}

fn ranges(all: Range<usize>, block: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(block).map(move |first| first..(first + block).min(end))
}

/// The largest value of a row besides its own pair's.
#[inline(always)]
pub(super) fn best_other(row: &[f32], own: Option<usize>) -> f32 {
    match own {
        None => crate::kernels::max(row),
        Some(own) => crate::kernels::max(&row[..own]).max(crate::kernels::max(&row[own + 1..])),
    }
}
