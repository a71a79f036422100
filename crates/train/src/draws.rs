//! Which rows of which sources make up the batch of a task's step: a pure function of (seed, step).
//!
//! In:  the sources' sizes and weights, the batch size, a seed. Out: per step, rows of one source or of
//!      all of them.
//! Not here: the order of rows within a source (`sampler`, or the source's own where it is streamed).

use conjoin_core::Seed;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::{
    error::SamplerError,
    sampler::{Sampler, SamplerConfig},
    source::Rows,
};

/// How the sources of a task share its batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// Every batch is of one source, drawn by weight: in-batch negatives are as hard as they can be.
    #[default]
    Homogeneous,
    /// Every batch has rows of all sources, as many as their weights say.
    Mixed,
}

/// What a source is to be drawn from.
pub(crate) struct Drawn<'a> {
    pub(crate) len: usize,
    pub(crate) weight: f64,
    pub(crate) aspects: Vec<&'a [u64]>,
    pub(crate) streamed: bool,
}

/// In which order a source gives its rows.
#[derive(Debug)]
enum Order {
    /// In one that is drawn here.
    Sampled(Sampler, Seed),
    /// In its own: `n_batches` times `batch` places an epoch, what is left of it is not read.
    Streamed { n_batches: u64, batch: usize, seed: Seed },
}

impl Order {
    fn new(source: &Drawn<'_>, batch: usize, seed: Seed) -> Result<Self, SamplerError> {
        if !source.streamed {
            let config = SamplerConfig { batch, drop_last: true };
            let sampler = Sampler::new(source.len, config, seed, &source.aspects)?;
            return Ok(Self::Sampled(sampler, seed));
        }
        match source.len.checked_div(batch) {
            None | Some(0) => Err(SamplerError::TooFew { found: source.len, batch }),
            Some(n_batches) => Ok(Self::Streamed { n_batches: n_batches as u64, batch, seed }),
        }
    }

    /// The rows of a batch, counted over all epochs.
    fn batch(&self, at: u64) -> Rows {
        match self {
            Self::Sampled(sampler, seed) => Rows { numbers: sampler.batch(at), order: *seed },
            Self::Streamed { n_batches, batch, seed } => {
                let first = (at % n_batches) as usize * batch;
                let order = seed.at(at / n_batches);
                Rows { numbers: (first..first + batch).collect(), order }
            }
        }
    }
}

/// Draws the rows of every step of a task.
#[derive(Debug)]
pub(crate) struct Draws {
    orders: Vec<Order>,
    /// Per step the source and how many batches it gave before; none where all give to every batch.
    turns: Option<Vec<(u32, u64)>>,
}

impl Draws {
    pub(crate) fn new(
        sources: &[Drawn<'_>],
        (batch, steps): (usize, u64),
        mixing: Mixing,
        seed: Seed,
    ) -> Result<Self, SamplerError> {
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let sizes = match mixing {
            Mixing::Homogeneous => vec![batch; sources.len()],
            Mixing::Mixed => shares(&weights, batch),
        };
        let mut orders = Vec::with_capacity(sources.len());
        for (i, (source, batch)) in sources.iter().zip(sizes).enumerate() {
            // A single source draws as if there were no others to choose from.
            let seed = if i == 0 { seed } else { seed.stream("source").at(i as u64) };
            orders.push(Order::new(source, batch, seed)?);
        }
        let turns = (mixing == Mixing::Homogeneous).then(|| turns(&weights, steps, seed));
        Ok(Self { orders, turns })
    }

    /// `(source, rows)` of a step.
    pub(crate) fn batch(&self, step: u64) -> Vec<(usize, Rows)> {
        match &self.turns {
            None => {
                let orders = self.orders.iter().enumerate();
                orders.map(|(source, order)| (source, order.batch(step))).collect()
            }
            Some(turns) => {
                let (source, before) = turns[step as usize];
                vec![(source as usize, self.orders[source as usize].batch(before))]
            }
        }
    }
}

/// For every step the source whose turn it is, and how many turns it had.
fn turns(weights: &[f64], steps: u64, seed: Seed) -> Vec<(u32, u64)> {
    let total: f64 = weights.iter().sum();
    let mut rng = seed.stream("turns").rng();
    let mut had = vec![0; weights.len()];
    let turn = |_| {
        let mut left = rng.random::<f64>() * total;
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let chosen = chosen.unwrap_or(weights.len() - 1);
        had[chosen] += 1;
        (u32::try_from(chosen).expect("fewer sources than 2^32"), had[chosen] - 1)
    };
    (0..steps).map(turn).collect()
}

/// `n` split by weights; every source gets at least one, the largest remainders the rest.
fn shares(weights: &[f64], n: usize) -> Vec<usize> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / total * n as f64).collect();
    let mut shares: Vec<usize> = exact.iter().map(|x| (x.floor() as usize).max(1)).collect();
    while shares.iter().sum::<usize>() != n {
        let short = |i: &usize| exact[*i] - shares[*i] as f64;
        let places = 0..shares.len();
        if shares.iter().sum::<usize>() < n {
            let most = places.max_by(|a, b| short(a).total_cmp(&short(b))).expect("a source");
            shares[most] += 1;
        } else {
            let over = places.filter(|i| shares[*i] > 1);
            let Some(least) = over.min_by(|a, b| short(a).total_cmp(&short(b))) else { break };
            shares[least] -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(lens: &[usize], weights: &[f64]) -> Vec<Drawn<'static>> {
        let source = |(len, weight): (&usize, &f64)| Drawn {
            len: *len,
            weight: *weight,
            aspects: Vec::new(),
            streamed: false,
        };
        lens.iter().zip(weights).map(source).collect()
    }

    #[test]
    fn sources_are_drawn_by_weight_each_through_its_epochs() {
        let sources = sources(&[40, 1000], &[3.0, 1.0]);
        let draws = Draws::new(&sources, (8, 4000), Mixing::Homogeneous, Seed(1)).unwrap();
        let batches: Vec<_> = (0..4000).map(|step| draws.batch(step).remove(0)).collect();
        let first = batches.iter().filter(|(source, _)| *source == 0).count();
        assert!((2850..3150).contains(&first), "{first}");
        let rows: Vec<usize> = batches
            .iter()
            .filter(|(s, _)| *s == 0)
            .take(5)
            .flat_map(|(_, r)| r.numbers.clone())
            .collect();
        let mut sorted = rows.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..40).collect::<Vec<_>>(), "an epoch shows every row once");
    }

    #[test]
    fn a_stream_is_drawn_place_by_place_with_a_seed_per_epoch() {
        let mut sources = sources(&[20, 40], &[1.0, 1.0]);
        sources.iter_mut().for_each(|source| source.streamed = true);
        let draws = Draws::new(&sources[..1], (8, 5), Mixing::Homogeneous, Seed(1)).unwrap();
        let rows: Vec<Rows> = (0..5).map(|step| draws.batch(step).remove(0).1).collect();
        let first = [0, 8, 0, 8, 0].map(|first: usize| (first..first + 8).collect::<Vec<_>>());
        assert_eq!(rows.iter().map(|r| r.numbers.clone()).collect::<Vec<_>>(), first);
        assert_eq!(rows[0].order, rows[1].order);
        assert_ne!(rows[0].order, rows[2].order, "another epoch, another order");
        let both = Draws::new(&sources, (8, 5), Mixing::Mixed, Seed(1)).unwrap().batch(0);
        assert_eq!(both[1].1.numbers, [0, 1, 2, 3]);
        assert_ne!(both[0].1.order, both[1].1.order);
        let error = Draws::new(&sources, (21, 5), Mixing::Homogeneous, Seed(1)).unwrap_err();
        assert!(matches!(error, SamplerError::TooFew { found: 20, batch: 21 }), "{error}");
    }

    #[test]
    fn mixed_batches_have_rows_of_all_sources() {
        let sources = sources(&[40, 1000, 9], &[3.0, 1.0, 0.001]);
        let draws = Draws::new(&sources, (8, 10), Mixing::Mixed, Seed(1)).unwrap();
        let sizes =
            |step| draws.batch(step).iter().map(|(_, r)| r.numbers.len()).collect::<Vec<_>>();
        assert_eq!(sizes(0), [5, 2, 1]);
        assert_eq!(sizes(9), [5, 2, 1]);
    }

    #[test]
    fn shares_add_up() {
        for weights in [&[1.0][..], &[1.0, 1.0, 1.0], &[0.9, 0.05, 0.05], &[1e-9, 1.0]] {
            for n in [4, 7, 128] {
                let shares = shares(weights, n);
                assert_eq!(shares.iter().sum::<usize>(), n, "{weights:?} {n}");
                assert!(shares.iter().all(|share| *share >= 1));
            }
        }
    }
}
