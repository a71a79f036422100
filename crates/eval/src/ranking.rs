//! Ranks a corpus for many queries without ever holding all scores.
//!
//! In:  a checked task. Out: per query the first hits and the exact rank of the first relevant row.
//! Not here: metrics (`metric`), approximate search (`conjoin-index`).
//!
//! A block of queries meets a block of corpus rows that fits the cache; the scores of the block go
//! straight into one [`Collector`] per query. [`dot`] always sums in the same order, so that scores are
//! equal bit for bit on every thread and machine.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    TaskErrorKind,
    task::{RetrievalTask, as_row},
};

/// Hits kept per query: what the metrics and the reports look at.
pub(crate) const TOP_HITS: usize = 10;

/// Queries that share one pass over a corpus block.
const MAX_QUERY_BLOCK: usize = 16;

/// Bytes of corpus that meet a block of queries: half of a common level-two cache.
const CORPUS_BLOCK_BYTES: usize = 512 << 10;

/// Partial sums per dot product: four registers of the smallest vector unit, which is enough to hide
/// the latency of an addition.
const LANES: usize = 16;

/// The outcome for one query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranking {
    /// From 1.
    pub(crate) first_rank: u32,
    /// Row and score, best first.
    pub(crate) hits: Vec<(u32, f32)>,
}

/// Which row goes first among equal scores: the one with the higher value.
#[derive(Debug)]
pub(crate) struct Precedence(Vec<u32>);

impl Precedence {
    /// Ranks the ids ascending, byte for byte, so that the greatest id goes first.
    pub(crate) fn new(ids: &[String], n: usize) -> Result<Self, TaskErrorKind> {
        let decimal: Vec<String>;
        let ids = if ids.is_empty() {
            decimal = (0..n).map(|row| row.to_string()).collect();
            &decimal
        } else {
            ids
        };
        let mut order: Vec<u32> = (0..as_row(n)).collect();
        order.sort_by(|a, b| ids[*a as usize].cmp(&ids[*b as usize]));
        let same = |pair: &&[u32]| ids[pair[0] as usize] == ids[pair[1] as usize];
        if let Some(&[first, second]) = order.windows(2).find(same) {
            let id = ids[first as usize].clone();
            return Err(TaskErrorKind::SameId { first, second, id });
        }
        let mut precedence = vec![0; n];
        for (place, row) in (0..).zip(order) {
            precedence[row as usize] = place;
        }
        Ok(Self(precedence))
    }

    /// One number that orders (score, precedence); finite scores only.
    fn key(&self, score: f32, row: u32) -> u64 {
        // Adding zero makes -0 equal to +0. Flipping the sign bit of positive numbers and all bits
        // of negative ones makes the bits sort as the numbers do.
        let bits = (score + 0.0).to_bits();
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(ordered) << 32 | u64::from(self.0[row as usize])
    }
}

/// Ranks the corpus for the `counted` queries, each of which has a relevant row.
pub(crate) fn rank(
    task: &RetrievalTask,
    counted: &[u32],
    precedence: &Precedence,
) -> Result<Vec<Ranking>, TaskErrorKind> {
    let fair = counted.len().div_ceil(4 * rayon::current_num_threads());
    let blocks: Vec<Result<Vec<Ranking>, TaskErrorKind>> = counted
        .par_chunks(fair.clamp(1, MAX_QUERY_BLOCK))
        .map(|queries| rank_block(task, queries, precedence))
        .collect();
    let mut rankings = Vec::with_capacity(counted.len());
    for block in blocks {
        rankings.extend(block?);
    }
    Ok(rankings)
}

fn rank_block(
    task: &RetrievalTask,
    queries: &[u32],
    precedence: &Precedence,
) -> Result<Vec<Ranking>, TaskErrorKind> {
    let mut collectors = queries
        .iter()
        .map(|&query| Collector::new(task, query, precedence))
        .collect::<Result<Vec<_>, _>>()?;
    let n = task.corpus.len();
    let rows = (CORPUS_BLOCK_BYTES / (size_of::<f32>() * task.corpus.width())).max(1);
    let mut scores = Vec::with_capacity(rows);
    for start in (0..n).step_by(rows) {
        let block = start..n.min(start + rows);
        for collector in &mut collectors {
            score(task, collector.query, block.clone(), &mut scores);
            collector.add(block.start, &scores, precedence)?;
        }
    }
    Ok(collectors.into_iter().map(Collector::finish).collect())
}

/// Writes the scores of one query with a range of corpus rows.
fn score(task: &RetrievalTask, query: u32, rows: Range<usize>, scores: &mut Vec<f32>) {
    let width = task.corpus.width();
    let query = task.queries.row(query as usize);
    let block = &task.corpus.values()[rows.start * width..rows.end * width];
    scores.clear();
    scores.extend(block.chunks_exact(width).map(|row| dot(query, row)));
}

/// The dot product. It has one summation order, so that a score never depends on where it is asked.
pub(crate) fn dot(query: &[f32], row: &[f32]) -> f32 {
    let (queries, query_rest) = query.as_chunks::<LANES>();
    let (rows, row_rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (query, row) in queries.iter().zip(rows) {
        for (sum, (q, r)) in sums.iter_mut().zip(query.iter().zip(row)) {
            *sum += q * r;
        }
    }
    let rest: f32 = query_rest.iter().zip(row_rest).map(|(q, r)| q * r).sum();
    sums.iter().sum::<f32>() + rest
}

/// What is kept of the scores of one query.
struct Collector {
    query: u32,
    excluded: Option<u32>,
    /// The key of the best relevant row.
    best_relevant: u64,
    /// Rows ahead of it so far.
    ahead: u32,
    /// Key, row and score, best first.
    hits: Vec<(u64, u32, f32)>,
}

impl Collector {
    fn new(
        task: &RetrievalTask,
        query: u32,
        precedence: &Precedence,
    ) -> Result<Self, TaskErrorKind> {
        let mut best_relevant = 0;
        for row in task.relevant(query) {
            let score = dot(task.queries.row(query as usize), task.corpus.row(row as usize));
            check_finite(query, row, score)?;
            best_relevant = best_relevant.max(precedence.key(score, row));
        }
        let excluded = task.excluded(query);
        Ok(Self { query, excluded, best_relevant, ahead: 0, hits: Vec::with_capacity(TOP_HITS) })
    }

    /// Takes the scores of consecutive rows from `start`.
    fn add(
        &mut self,
        start: usize,
        scores: &[f32],
        precedence: &Precedence,
    ) -> Result<(), TaskErrorKind> {
        for (row, &score) in (as_row(start)..).zip(scores) {
            if self.excluded == Some(row) {
                continue;
            }
            check_finite(self.query, row, score)?;
            let key = precedence.key(score, row);
            self.ahead += u32::from(key > self.best_relevant);
            if self.hits.len() < TOP_HITS || self.hits.last().is_some_and(|hit| key > hit.0) {
                self.insert((key, row, score));
            }
        }
        Ok(())
    }

    fn insert(&mut self, hit: (u64, u32, f32)) {
        if self.hits.len() == TOP_HITS {
            self.hits.pop();
        }
        let place = self.hits.partition_point(|kept| kept.0 > hit.0);
        self.hits.insert(place, hit);
    }

    fn finish(self) -> Ranking {
        let hits = self.hits.into_iter().map(|(_, row, score)| (row, score)).collect();
        Ranking { first_rank: self.ahead + 1, hits }
    }
}

fn check_finite(query: u32, row: u32, score: f32) -> Result<(), TaskErrorKind> {
    if score.is_finite() { Ok(()) } else { Err(TaskErrorKind::NotFinite { query, row, score }) }
}

#[cfg(test)]
mod tests;
