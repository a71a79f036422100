//! What one attention has to compute, cut into pieces for the threads.
//!
//! In:  offsets and a spec. Out: [`Unit`]s, consecutive queries of one sequence for all heads, and runs
//! of units that are worth handing over. No sum depends on how queries are cut.

use std::{ops::Range, sync::Arc};

use super::{AttentionSpec, LANES, Mask, bias::ByDistance};
use crate::{Precision, Tensor, gemm::MatRef};

/// The fewest queries of a unit that shares its sequence with others: each packs all keys for itself.
const FEWEST_QUERIES: usize = 24;
/// Products per head channel below which handing a unit over does not pay.
const SMALLEST_TASK: usize = 1 << 18;
/// Tasks per thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 8;
/// What packing a key costs, in queries.
const PACKING: usize = 10;

/// One attention.
pub(super) struct Work {
    pub(super) offsets: Arc<[usize]>,
    /// Model width.
    pub(super) d: usize,
    pub(super) spec: AttentionSpec,
    pub(super) bias: Option<ByDistance>,
    /// `f32` or bf16.
    pub(super) precision: Precision,
}

/// Consecutive queries of one sequence.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// The sequence's first token.
    pub(super) start: usize,
    /// Its tokens that are seen, from the first.
    visible: usize,
    /// Its number of tokens.
    pub(super) t: usize,
    /// Places of the queries in the sequence.
    pub(super) positions: Range<usize>,
    /// The row of the first query among all queries.
    pub(super) row: usize,
}

/// Rows of queries, keys or values of all heads.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// The columns of `x` from `first` on; nothing where there are no rows.
    pub(super) fn of(x: &'a Tensor, first: usize) -> Self {
        Self::new(x.values().get(first..).unwrap_or_default(), x.cols())
    }

    pub(super) fn new(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride }
    }

    /// `c` columns from `first` on of a row.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, first: usize, c: usize) -> &'a [f32] {
        &self.values[row * self.stride + first..][..c]
    }

    /// `c` columns from `first` on of some rows.
    #[inline(always)]
    pub(super) fn matrix(&self, rows: Range<usize>, first: usize, c: usize) -> MatRef<'a> {
        let data = &self.values[rows.start * self.stride + first..];
        MatRef::rows_apart(data, (rows.len(), c), self.stride)
    }
}

/// Queries, keys and values.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
}

impl<'a> Operands<'a> {
    /// Side by side in `[t, 3 d]`.
    pub(super) fn side_by_side(qkv: &'a Tensor) -> Self {
        let d = qkv.cols() / 3;
        Self { q: Rows::of(qkv, 0), k: Rows::of(qkv, d), v: Rows::of(qkv, 2 * d) }
    }
}

impl Work {
    /// Width per head.
    #[inline(always)]
    pub(super) fn c(&self) -> usize {
        self.d / self.spec.heads
    }

    #[inline(always)]
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.c() as f32).sqrt()
    }

    /// The position that the token at place `i` of a sequence is turned to.
    #[inline(always)]
    pub(super) fn position(&self, unit: &Unit, i: usize) -> usize {
        self.spec.places.as_ref().map_or(i, |places| places[unit.start + i])
    }

    /// Queries at some places of a sequence; the first of them is row `row` of all queries.
    pub(super) fn unit(&self, sequence: usize, positions: Range<usize>, row: usize) -> Unit {
        let (start, end) = (self.offsets[sequence], self.offsets[sequence + 1]);
        let t = end - start;
        let visible = self.spec.visible.as_ref().map_or(t, |visible| visible[sequence].min(t));
        Unit { start, visible, t, positions, row }
    }

    /// All tokens as queries, a unit per sequence.
    pub(super) fn sequences(&self) -> Vec<Unit> {
        let unit = |i: usize| {
            let (start, end) = (self.offsets[i], self.offsets[i + 1]);
            self.unit(i, 0..end - start, start)
        };
        (0..self.offsets.len() - 1).map(unit).collect()
    }

    /// All tokens as queries; sequences that would keep one thread busy while others wait are cut.
    pub(super) fn units(&self) -> Vec<Unit> {
        let threads = rayon::current_num_threads();
        let sequences = self.sequences();
        let total: usize = sequences.iter().map(|unit| self.cost(unit)).sum();
        let share = total.div_ceil(2 * threads).max(1);
        let cut = |unit: Unit| {
            let wanted = if threads == 1 { 1 } else { self.cost(&unit).div_ceil(share) };
            let most = (unit.t / FEWEST_QUERIES).max(1);
            let n = match wanted.clamp(1, most) {
                n if n > threads => n / threads * threads,
                n => n,
            };
            (0..n).map(move |i| {
                let positions = i * unit.t / n..(i + 1) * unit.t / n;
                Unit { row: unit.row + positions.start, positions, ..unit.clone() }
            })
        };
        sequences.into_iter().flat_map(cut).collect()
    }

    /// Products per channel.
    fn cost(&self, unit: &Unit) -> usize {
        match unit.positions.is_empty() {
            true => 0,
            false => {
                self.keys(unit, unit.positions.clone()).len() * (unit.positions.len() + PACKING)
            }
        }
    }

    /// Runs of units, each with its rows of `out`, which are `cols` wide.
    pub(super) fn tasks<'a, 'o>(
        &self,
        units: &'a [Unit],
        mut out: &'o mut [f32],
        cols: usize,
    ) -> Vec<(&'a [Unit], &'o mut [f32])> {
        let total: usize = units.iter().map(|unit| self.cost(unit)).sum();
        let share = total / (TASKS_PER_THREAD * rayon::current_num_threads());
        let enough = share.max(SMALLEST_TASK / self.d.max(1));
        let (mut tasks, mut rest) = (Vec::new(), units);
        while !rest.is_empty() {
            let mut cost = 0;
            let n = rest.iter().take_while(|unit| {
                let goes_on = cost < enough;
                cost += self.cost(unit);
                goes_on
            });
            let (run, more) = rest.split_at(n.count());
            let rows: usize = run.iter().map(|unit| unit.positions.len()).sum();
            let (piece, behind) = out.split_at_mut(rows * cols);
            tasks.push((run, piece));
            (rest, out) = (more, behind);
        }
        tasks
    }

    /// The keys that the query at place `i` sees.
    #[inline(always)]
    pub(super) fn seen(&self, unit: &Unit, i: usize) -> Range<usize> {
        let reach = self.spec.reach.unwrap_or(unit.t);
        let last = match self.spec.mask {
            Mask::Bidirectional => i.saturating_add(reach),
            Mask::Causal => i,
        };
        let end = last.saturating_add(1).min(unit.visible);
        i.saturating_sub(reach).min(end)..end
    }

    /// Keys among which are all that some queries see; they begin at a whole vector.
    #[inline(always)]
    pub(super) fn keys(&self, unit: &Unit, positions: Range<usize>) -> Range<usize> {
        let (first, last) = (self.seen(unit, positions.start), self.seen(unit, positions.end - 1));
        first.start / LANES * LANES..last.end
    }
}
