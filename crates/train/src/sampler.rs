//! Which pairs make up the batch of a step: a pure function of (seed, step).
//!
//! In:  the number of pairs, the batch size, a seed, ids of pairs that show the same thing.
//! Out: the rows of a step's batch.
//! Not here: reading the rows (`trainer`'s source). There is no state to save: an epoch's order
//! follows from (seed, epoch); the last ones are only kept to save time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use conjoin_core::Seed;
use rand::seq::SliceRandom;

use crate::error::SamplerError;

/// How batches are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplerConfig {
    /// Pairs in a batch.
    pub batch: usize,
    /// Whether the pairs left after the last whole batch of an epoch wait for another epoch.
    pub drop_last: bool,
}

/// Draws batches: every epoch is a new order of all pairs.
#[derive(Debug)]
pub struct Sampler {
    n: usize,
    config: SamplerConfig,
    seed: Seed,
    /// The ids of each aspect, made unique across aspects, `[n]` each; none to ignore them.
    aspects: Vec<Vec<u32>>,
    /// How many pairs have an id.
    counts: Vec<u32>,
    recent: Mutex<Vec<(u64, Arc<Epoch>)>>,
}

/// The rows of all batches of an epoch.
type Epoch = Vec<Vec<usize>>;

/// Epochs kept: workers may be in the next one while others finish the current one.
const N_RECENT: usize = 2;
/// Exchanges tried for a pair whose batch already shows the same thing.
const MAX_EXCHANGES: usize = 64;

impl Sampler {
    /// Draws from `n` pairs; `aspects` holds ids (`[n]` each, or empty) of which no two equal ones
    /// shall meet in a batch where that can be avoided.
    ///
    /// # Errors
    /// When there is no whole batch, or ids do not fit.
    pub fn new(
        n: usize,
        config: SamplerConfig,
        seed: Seed,
        aspects: &[&[u64]],
    ) -> Result<Self, SamplerError> {
        let SamplerConfig { batch, drop_last } = config;
        if batch == 0 || n == 0 || (drop_last && n < batch) {
            return Err(SamplerError::TooFew { found: n, batch });
        }
        for (aspect, ids) in aspects.iter().enumerate() {
            if !ids.is_empty() && ids.len() != n {
                return Err(SamplerError::Ids { aspect, found: ids.len(), expected: n });
            }
        }
        let (aspects, counts) = number_ids(aspects);
        Ok(Self { n, config, seed, aspects, counts, recent: Mutex::default() })
    }

    /// Batches in an epoch.
    #[must_use]
    pub fn n_batches(&self) -> usize {
        let SamplerConfig { batch, drop_last } = self.config;
        if drop_last { self.n / batch } else { self.n.div_ceil(batch) }
    }

    /// The rows of the batch of a step, counted over all epochs.
    #[must_use]
    pub fn batch(&self, step: u64) -> Vec<usize> {
        let n_batches = self.n_batches() as u64;
        let position = (step % n_batches) as usize;
        self.epoch(step / n_batches)[position].clone()
    }

    fn epoch(&self, epoch: u64) -> Arc<Epoch> {
        // Held while drawing, so that an epoch is drawn once. Nothing in it can panic.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, batches)) = recent.iter().find(|(e, _)| *e == epoch) {
            return Arc::clone(batches);
        }
        let batches = Arc::new(self.draw(epoch));
        recent.insert(0, (epoch, Arc::clone(&batches)));
        recent.truncate(N_RECENT);
        batches
    }

    fn draw(&self, epoch: u64) -> Epoch {
        let mut rng = self.seed.at(epoch).rng();
        let mut rows: Vec<usize> = (0..self.n).collect();
        rows.shuffle(&mut rng);
        if self.config.drop_last {
            rows.truncate(self.n_batches() * self.config.batch);
        }
        if self.counts.iter().all(|count| *count < 2) {
            return rows.chunks(self.config.batch).map(<[usize]>::to_vec).collect();
        }
        self.gather_repeated(&mut rows);
        let mut batches = self.deal(&rows);
        self.exchange_repeated(&mut batches);
        for batch in &mut batches {
            batch.shuffle(&mut rng);
        }
        // A short batch stays last.
        let n_whole = batches.iter().filter(|b| b.len() == self.config.batch).count();
        batches[..n_whole].shuffle(&mut rng);
        batches
    }

    /// Puts rows that share their most frequent id side by side; otherwise the order stays.
    fn gather_repeated(&self, rows: &mut [usize]) {
        let mut first_seen: HashMap<u32, usize> = HashMap::new();
        let mut order = vec![0; self.n];
        for (position, &row) in rows.iter().enumerate() {
            let ids = self.aspects.iter().map(|ids| ids[row]);
            let id = ids.max_by_key(|id| (self.counts[*id as usize], *id));
            order[row] = id.map_or(position, |id| *first_seen.entry(id).or_insert(position));
        }
        rows.sort_by_key(|row| order[*row]);
    }

    /// Deals rows to the batches like cards, so that neighbours never meet.
    fn deal(&self, rows: &[usize]) -> Epoch {
        let (n_batches, batch) = (self.n_batches(), self.config.batch);
        let size = |b: usize| batch.min(rows.len() - b * batch);
        let mut batches: Epoch = (0..n_batches).map(|b| Vec::with_capacity(size(b))).collect();
        let mut rows = rows.iter();
        for slot in 0..batch {
            for (b, cards) in batches.iter_mut().enumerate().filter(|(b, _)| slot < size(*b)) {
                debug_assert!(slot < size(b));
                cards.extend(rows.next());
            }
        }
        batches
    }

    /// Exchanges rows whose batch shows the same thing twice with rows of other batches.
    fn exchange_repeated(&self, batches: &mut Epoch) {
        let mut shown: Vec<Shown> = batches.iter().map(|rows| self.shown(rows)).collect();
        let n_batches = batches.len();
        for b in 0..n_batches {
            for slot in 0..batches[b].len() {
                let row = batches[b][slot];
                if !self.repeats(&shown[b], row, 1) {
                    continue;
                }
                let others = (1..n_batches).map(|by| (b + by) % n_batches).take(MAX_EXCHANGES);
                let fits = |other: &usize| {
                    batches[*other].get(slot).is_some_and(|candidate| {
                        self.fits_instead(&shown[*other], row, *candidate)
                            && self.fits_instead(&shown[b], *candidate, row)
                    })
                };
                if let Some(other) = others.into_iter().find(fits) {
                    let candidate = batches[other][slot];
                    self.replace(&mut shown[b], row, candidate);
                    self.replace(&mut shown[other], candidate, row);
                    batches[b][slot] = candidate;
                    batches[other][slot] = row;
                }
            }
        }
    }

    fn ids(&self, row: usize) -> impl Iterator<Item = u32> + '_ {
        self.aspects.iter().map(move |ids| ids[row])
    }

    fn shown(&self, rows: &[usize]) -> Shown {
        let mut shown = Shown::new();
        for id in rows.iter().flat_map(|row| self.ids(*row)) {
            *shown.entry(id).or_default() += 1;
        }
        shown
    }

    /// Whether an id of `row` is shown more than `own` times.
    fn repeats(&self, shown: &Shown, row: usize, own: u32) -> bool {
        self.ids(row).any(|id| shown.get(&id).copied().unwrap_or(0) > own)
    }

    /// Whether `row` repeats nothing in a batch that `instead_of` leaves.
    fn fits_instead(&self, shown: &Shown, row: usize, instead_of: usize) -> bool {
        self.ids(row).all(|id| {
            let leaving = u32::from(self.ids(instead_of).any(|other| other == id));
            shown.get(&id).copied().unwrap_or(0) <= leaving
        })
    }

    fn replace(&self, shown: &mut Shown, old: usize, new: usize) {
        for id in self.ids(old) {
            if let Some(count) = shown.get_mut(&id) {
                *count -= 1;
            }
        }
        for id in self.ids(new) {
            *shown.entry(id).or_default() += 1;
        }
    }
}

/// How often a batch shows an id.
type Shown = HashMap<u32, u32>;

/// Numbers the ids of all aspects, so that equal numbers mean equal ids of one aspect, and counts.
fn number_ids(aspects: &[&[u64]]) -> (Vec<Vec<u32>>, Vec<u32>) {
    let mut counts: Vec<u32> = Vec::new();
    let numbered = aspects.iter().filter(|ids| !ids.is_empty()).map(|ids| {
        let mut numbers: HashMap<u64, u32> = HashMap::with_capacity(ids.len());
        let number = |id: &u64| {
            let number = *numbers.entry(*id).or_insert_with(|| {
                counts.push(0);
                u32::try_from(counts.len() - 1).expect("fewer than 2^32 different ids")
            });
            counts[number as usize] += 1;
            number
        };
        ids.iter().map(number).collect()
    });
    (numbered.collect(), counts)
}

#[cfg(test)]
mod tests;
