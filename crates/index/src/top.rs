//! The `k` best of many scored items.
//!
//! In:  (score, item) in any order. Out: highest score first, equal scores by item.
//! The order is total, so the result does not depend on how the items were split or merged.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A scored item; greater is worse, so that a heap's top is the first to go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    pub(crate) score: f32,
    pub(crate) item: usize,
}

impl Eq for Scored {}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.item.cmp(&other.item))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Keeps the `k` best.
#[derive(Debug, Clone)]
pub(crate) struct Top {
    k: usize,
    heap: BinaryHeap<Scored>,
}

impl Top {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// Takes a score into account; one that is not finite (a damaged row) is never kept.
    pub(crate) fn push(&mut self, score: f32, item: usize) {
        if !score.is_finite() || self.k == 0 {
            return;
        }
        // Zero is one score, whatever its sign.
        let scored = Scored { score: score + 0.0, item };
        if self.heap.len() < self.k {
            self.heap.push(scored);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && scored < *worst
        {
            *worst = scored;
        }
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        other.heap.into_iter().for_each(|s| self.push(s.score, s.item));
        self
    }

    pub(crate) fn into_sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec()
    }
}
