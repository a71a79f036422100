//! The order of an epoch: which sample of which shard stands at a place, as a pure function of a seed.
//!
//! In:  the shards' numbers of samples, a seed. Out: for a place of the *stream* its shard and sample; for the
//!      same place of the stream when it is drawn.
//!
//! 1. Shards are shuffled. So many of them at a time (`interleave`) are read in turns, a sample of each; that is the
//!    stream, and it can be read from front to back.
//! 2. The stream is cut into windows of `shuffle_buffer` samples, and each window is shuffled as a whole.
//!
//! Compared with WebDataset, which draws from a buffer that each sample read refills: there a sample may wait
//! arbitrarily long, and what is in the buffer follows from all that was read before, so going on means reading the
//! epoch again. Here a sample moves by less than one window, and place `k` follows from its window alone. Samples within
//! a buffer of each other mix as well; interleaving does what WebDataset's several workers do.

use conjoin_core::Seed;
use rand::seq::SliceRandom;

use super::Shard;

/// The stream of an epoch.
#[derive(Debug)]
pub(super) struct Order {
    /// The shards as they are read.
    shards: Vec<u32>,
    interleave: usize,
    /// The first place of each group of shards that are read in turns.
    starts: Vec<u64>,
}

impl Order {
    pub(super) fn new(shards: &[Shard], interleave: usize, seed: Seed) -> Self {
        let n = u32::try_from(shards.len()).expect("the number of shards has a limit");
        let mut order: Vec<u32> = (0..n).collect();
        order.shuffle(&mut seed.stream("shards").rng());
        let mut next = 0;
        let start = |group: &[u32]| {
            let start = next;
            next += group.iter().map(|i| u64::from(shards[*i as usize].n_samples)).sum::<u64>();
            start
        };
        let starts = order.chunks(interleave).map(start).collect();
        Self { shards: order, interleave, starts }
    }

    /// The shard and the sample in it, from 0, that stand at a place of the stream.
    pub(super) fn at(&self, shards: &[Shard], place: u64) -> (usize, u32) {
        let group = self.starts.partition_point(|start| *start <= place) - 1;
        let first = group * self.interleave;
        let members = &self.shards[first..self.shards.len().min(first + self.interleave)];
        let count = |shard: &u32| shards[*shard as usize].n_samples;
        let local = place - self.starts[group];
        // In round `r` every shard with more than `r` samples gives one.
        let before = |r: u32| members.iter().map(|s| u64::from(count(s).min(r))).sum::<u64>();
        let round =
            last_fitting(members.iter().map(count).max().unwrap_or(0), |r| before(r) <= local);
        let mut giving = members.iter().filter(|shard| count(shard) > round);
        let shard = giving.nth((local - before(round)) as usize);
        (*shard.expect("the place is one of the stream") as usize, round)
    }
}

/// The last number up to `end` for which a condition holds that holds for 0, and for none after it first fails.
fn last_fitting(end: u32, holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = high - (high - low) / 2;
        if holds(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

/// The shuffled windows of an epoch; the last one used is kept.
#[derive(Debug)]
pub(super) struct Windows {
    size: u64,
    n: u64,
    seed: Seed,
    current: Option<(u64, Vec<u32>)>,
}

impl Windows {
    /// Windows of `size` over `n` samples; the last may be shorter.
    pub(super) fn new(size: usize, n: usize, seed: Seed) -> Self {
        Self { size: size as u64, n: n as u64, seed: seed.stream("window"), current: None }
    }

    /// The first place of the window around a place.
    pub(super) fn start(&self, place: u64) -> u64 {
        place / self.size * self.size
    }

    /// The end of what must have been read when a place is drawn.
    pub(super) fn needed(&self, place: u64) -> u64 {
        (place + self.size).min(self.n)
    }

    /// When the sample at a place of the stream is drawn.
    pub(super) fn drawn_at(&mut self, place: u64) -> u64 {
        let (window, start) = (place / self.size, self.start(place));
        if self.current.as_ref().is_none_or(|(current, _)| *current != window) {
            let mut order: Vec<u32> = (0..self.size.min(self.n - start) as u32).collect();
            order.shuffle(&mut self.seed.at(window).rng());
            self.current = Some((window, order));
        }
        let (_, order) = self.current.as_ref().expect("set just above");
        start + u64::from(order[(place - start) as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prop_every_sample_is_drawn_once_by_every_window_and_interleaving(
            counts in prop::collection::vec(0_u32..9, 1..8),
            interleave in 1_usize..5,
            size in 1_usize..20,
            seed: u64,
        ) {
            let shard = |n: &u32| Shard { path: PathBuf::new(), n_samples: *n };
            let shards: Vec<Shard> = counts.iter().map(shard).collect();
            let n: u32 = counts.iter().sum();
            let order = Order::new(&shards, interleave, Seed(seed));
            let mut stream: Vec<(usize, u32)> =
                (0..u64::from(n)).map(|place| order.at(&shards, place)).collect();
            // Every shard is read from front to back.
            for (shard, n) in counts.iter().enumerate() {
                let of_shard = stream.iter().filter(|(s, _)| *s == shard);
                let read: Vec<u32> = of_shard.map(|(_, i)| *i).collect();
                prop_assert_eq!(read, (0..*n).collect::<Vec<_>>());
            }
            stream.sort_unstable();
            stream.dedup();
            prop_assert_eq!(stream.len(), n as usize);
            let mut windows = Windows::new(size, n as usize, Seed(seed));
            let mut drawn: Vec<u64> = (0..u64::from(n)).map(|place| windows.drawn_at(place)).collect();
            for (place, at) in drawn.iter().enumerate() {
                prop_assert_eq!(place / size, *at as usize / size, "it stays in its window");
            }
            drawn.sort_unstable();
            prop_assert_eq!(drawn, (0..u64::from(n)).collect::<Vec<_>>());
        }
    }
}
