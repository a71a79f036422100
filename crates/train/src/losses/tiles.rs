//! The similarity matrix of a batch, tile by tile, so that it is never held as a whole.
//!
//! In:  query and document embeddings `[b, e]`, a scale, the pairs to leave out.
//! Out: tiles of logits to look at; from tiles of `dL/dlogit`, `dL/dq` and `dL/dd`.
//! Not here: what a loss does with a logit (its own file).
//!
//! Row blocks come one after the other; the tiles of one row block (a strip) are worked on in
//! parallel. Every sum has one owner and one order, so the result does not depend on the number of
//! threads.

use std::ops::Range;

use conjoin_core::Embeddings;
use rayon::prelude::*;

use super::{FalseNegatives, Pairs};
use crate::{
    kernels::{inner_product, vectorized},
    matmul::{Left, PANEL, Panels, multiply_add},
};

/// Rows and columns of a tile: one tile and the documents behind it fit the second-level cache.
pub(super) const BLOCK: usize = 128;
/// Rows of `dL/dq` that one task computes.
const ROW_GROUP: usize = 32;
/// The logit of a pair that is left out; its exponential is exactly zero.
pub(super) const LEFT_OUT: f32 = f32::MIN;

/// The operands of all tiles, packed once.
pub(super) struct Blocks<'a> {
    pairs: Pairs<'a>,
    scale: f32,
    block: usize,
    scaled_queries: Vec<f32>,
    query_rows: Vec<Panels>,
    document_rows: Vec<Panels>,
    document_columns: Vec<Panels>,
}

/// Logits of some rows and columns; a loss turns them into `dL/dlogit` in place.
pub(super) struct Tile {
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
}

impl<'a> Blocks<'a> {
    /// Packs the operands for tiles of `block` rows and columns.
    pub(super) fn new(pairs: Pairs<'a>, scale: f32, block: usize) -> Self {
        let (q, d) = (pairs.queries, pairs.documents);
        assert_eq!((q.len(), q.width()), (d.len(), d.width()), "matched rows of one width");
        assert!(!q.is_empty(), "a batch has at least one pair");
        pairs.false_negatives.assert_rows(q.len());
        let e = q.width();
        let scaled_queries: Vec<f32> = q.values().iter().map(|v| v * scale).collect();
        let pack = |values: &[f32], pack: fn(&[f32], usize) -> Panels| {
            values.par_chunks(block * e).map(|rows| pack(rows, e)).collect()
        };
        Self {
            pairs,
            scale,
            block,
            query_rows: pack(&scaled_queries, Panels::from_rows),
            document_rows: pack(d.values(), Panels::from_rows),
            document_columns: pack(d.values(), Panels::from_columns),
            scaled_queries,
        }
    }

    /// Number of pairs `b`.
    pub(super) fn len(&self) -> usize {
        self.pairs.queries.len()
    }

    /// Rows and columns of a tile.
    pub(super) fn block(&self) -> usize {
        self.block
    }

    /// Shows every strip of logits in turn: the tiles of one row block, in order of their columns.
    pub(super) fn for_each_strip(&self, mut visit: impl FnMut(usize, &mut [Tile])) {
        let mut strip: Vec<Tile> = self.ranges().map(|columns| self.empty_tile(columns)).collect();
        for (row_block, rows) in self.ranges().enumerate() {
            strip.par_iter_mut().enumerate().for_each(|(column_block, tile)| {
                self.fill(tile, &rows, column_block);
            });
            visit(row_block, &mut strip);
        }
    }

    /// Turns every tile of logits into `dL/dlogit` by `differentiate` and gathers `dL/dq` and
    /// `dL/dd`; `merge` sees what it returned, in order of rows, then columns.
    pub(super) fn gradients<R: Send>(
        &self,
        differentiate: impl Fn(&mut Tile) -> R + Sync,
        mut merge: impl FnMut(R),
    ) -> (Embeddings, Embeddings) {
        let (b, width) = (self.len(), self.pairs.queries.width().next_multiple_of(PANEL));
        let mut d_queries = vec![0.0; b * width];
        let mut d_documents = vec![0.0; b * width];
        self.for_each_strip(|row_block, strip| {
            let parts: Vec<R> = strip
                .par_iter_mut()
                .zip(d_documents.par_chunks_mut(self.block * width))
                .map(|(tile, d_documents)| {
                    let part = differentiate(tile);
                    let queries = &self.query_rows[row_block];
                    multiply_add(tile.transposed(), queries, d_documents, width);
                    part
                })
                .collect();
            parts.into_iter().for_each(&mut merge);
            let rows = row_block * self.block * width;
            let rows = rows..(rows + self.block * width).min(b * width);
            self.add_d_queries(strip, &mut d_queries[rows], width);
        });
        (self.unpad(d_queries, width, self.scale), self.unpad(d_documents, width, 1.0))
    }

    /// `dL/dlog_scale` from `dL/dq`: both sum `dL/dlogit · logit`.
    pub(super) fn d_log_scale(&self, d_queries: &Embeddings) -> f64 {
        let rows = self.pairs.queries.rows().zip(d_queries.rows());
        vectorized(|| rows.map(|(q, d_q)| inner_product(q, d_q)).sum())
    }

    fn add_d_queries(&self, strip: &[Tile], d_queries: &mut [f32], width: usize) {
        d_queries.par_chunks_mut(ROW_GROUP * width).enumerate().for_each(|(group, d_queries)| {
            for (tile, documents) in strip.iter().zip(&self.document_rows) {
                multiply_add(tile.left(group * ROW_GROUP), documents, d_queries, width);
            }
        });
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (b, block) = (self.len(), self.block);
        (0..b).step_by(block).map(move |first| first..(first + block).min(b))
    }

    fn empty_tile(&self, columns: Range<usize>) -> Tile {
        let stride = columns.len().next_multiple_of(PANEL);
        Tile { rows: 0..0, columns, stride, values: vec![0.0; self.block * stride] }
    }

    fn fill(&self, tile: &mut Tile, rows: &Range<usize>, column_block: usize) {
        let e = self.pairs.queries.width();
        tile.rows = rows.clone();
        tile.values.resize(rows.len() * tile.stride, 0.0);
        tile.values.fill(0.0);
        let queries = &self.scaled_queries[rows.start * e..rows.end * e];
        let left = Left { values: queries, row: e, step: 1 };
        let documents = &self.document_columns[column_block];
        multiply_add(left, documents, &mut tile.values, tile.stride);
        leave_out(tile, self.pairs.false_negatives);
    }

    fn unpad(&self, padded: Vec<f32>, width: usize, scale: f32) -> Embeddings {
        let e = self.pairs.queries.width();
        let mut out = Embeddings::zeros(self.len(), e);
        let rows = out.values_mut().chunks_exact_mut(e).zip(padded.chunks_exact(width));
        for (out, row) in rows {
            out.iter_mut().zip(row).for_each(|(out, value)| *out = value * scale);
        }
        out
    }
}

fn leave_out(tile: &mut Tile, same: &FalseNegatives) {
    let first_column = tile.columns.start;
    for (i, row) in tile.rows_mut().filter(|(i, _)| same.any_in_row(*i)) {
        for (j, logit) in row.iter_mut().enumerate() {
            if same.contains(i, first_column + j) {
                *logit = LEFT_OUT;
            }
        }
    }
}

/// The largest value of a row besides its own pair's.
#[inline(always)]
pub(super) fn best_other(row: &[f32], own: Option<usize>) -> f32 {
    match own {
        None => crate::kernels::max(row),
        Some(own) => crate::kernels::max(&row[..own]).max(crate::kernels::max(&row[own + 1..])),
    }
}
