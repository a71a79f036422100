//! What is added to the scores for the distance of two tokens, laid out for rows of scores.
//!
//! In:  a [`DistanceBias`] and the longest sequence. Out: for each query a slice of numbers per key.

use std::{f32::consts::LOG2_E, sync::Arc};

use super::{DistanceBias, LANES};
use crate::Exec;

/// The bias of every head by distance: for `j − i` from `−(n − 1)` to `n − 1`, with `n` the longest
/// sequence of the batch; zeros behind, as rows of scores are whole vectors. Times `log₂ e`, as scores are.
#[derive(Clone)]
pub(super) struct ByDistance {
    values: Arc<[f32]>,
    n: usize,
}

impl ByDistance {
    pub(super) fn of(bias: &DistanceBias, heads: usize, n: usize, exec: &Exec<'_>) -> Self {
        let distances = 0..2 * n - 1;
        let behind = std::iter::repeat_n(0.0, LANES);
        let values = match bias {
            DistanceBias::Alibi(slopes) => {
                assert_eq!(slopes.len(), heads, "a slope per head");
                let row = |m: f32| distances.clone().map(move |d| -m * (d.abs_diff(n - 1)) as f32);
                slopes.iter().flat_map(|m| row(*m * LOG2_E).chain(behind.clone())).collect()
            }
            DistanceBias::Buckets { table, bucket_of } => {
                let (table, skip) = (exec.value(*table), bucket_of.len().div_ceil(2) - n);
                let row = |head| {
                    distances
                        .clone()
                        .map(move |d| table[bucket_of[skip + d] * heads + head] * LOG2_E)
                };
                (0..heads).flat_map(|head| row(head).chain(behind.clone())).collect()
            }
        };
        Self { values, n }
    }

    /// The numbers for query `i`, from key `j` on.
    #[inline(always)]
    pub(super) fn row(&self, head: usize, i: usize, j: usize) -> &[f32] {
        let width = 2 * self.n - 1 + LANES;
        &self.values[head * width..(head + 1) * width][self.n - 1 + j - i..]
    }
}
