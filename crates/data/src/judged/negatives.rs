//! The negatives of one row.
//!
//! In:  what was judged for the query, the texts of query and document, a seed. Out: items, as many as the rule
//!      says; none with the text of an item that fits the query, no text twice.

use std::collections::HashSet;

use conjoin_core::Seed;

use super::{JudgedRule, items::Items, judgements::Grade};

/// Items near the query or the document that hard negatives are drawn from.
const N_NEAR: usize = 30;

/// Draws the negatives. There are enough different texts: the opening left out the rows of other queries.
pub(super) fn draw(
    items: &Items,
    (judged, rule): (&[Grade], JudgedRule),
    (query, document): (&str, &str),
    seed: Seed,
) -> Vec<u32> {
    let fits = |judged: &&Grade| judged.grade >= rule.negative_below;
    let spared = judged.iter().filter(fits).map(|judged| items.hash(judged.item)).collect();
    let mut drawn = Drawn { items, n: rule.n_negatives, chosen: vec![], texts: spared };
    let below = judged.iter().filter(|judged| !fits(judged)).map(|judged| judged.item);
    drawn.take(shuffled(below.collect(), seed.stream("judged")));
    if !drawn.is_full() {
        // By now everything judged for the query is among the texts: it fits, or it was taken.
        let near = near(items, &drawn.texts, (query, document));
        drawn.take(shuffled(near, seed.stream("near")));
    }
    drawn.fill(seed.stream("any"));
    drawn.chosen
}

/// The nearest items whose text is not excluded: one of the query, one of the document, and so on.
fn near(items: &Items, excluded: &HashSet<u64>, (query, document): (&str, &str)) -> Vec<u32> {
    let skip = |item: u32| excluded.contains(&items.hash(item));
    let of = |text| items.lexical().nearest(text, N_NEAR, &skip);
    let (by_query, by_document) = (of(query), of(document));
    let mut near: Vec<u32> = Vec::with_capacity(N_NEAR);
    for rank in 0..N_NEAR {
        for item in [by_query.get(rank), by_document.get(rank)].into_iter().flatten() {
            if near.len() < N_NEAR && !near.contains(item) {
                near.push(*item);
            }
        }
    }
    near
}

/// In an order drawn from the seed, whatever order they come in.
fn shuffled(mut items: Vec<u32>, seed: Seed) -> Vec<u32> {
    items.sort_by_key(|item| (seed.at(u64::from(*item)).0, *item));
    items
}

/// Negatives so far.
struct Drawn<'a> {
    items: &'a Items,
    n: usize,
    chosen: Vec<u32>,
    /// Texts that may not come (again).
    texts: HashSet<u64>,
}

impl Drawn<'_> {
    fn is_full(&self) -> bool {
        self.chosen.len() == self.n
    }

    fn take(&mut self, items: impl IntoIterator<Item = u32>) {
        for item in items {
            if self.is_full() {
                return;
            }
            if self.texts.insert(self.items.hash(item)) {
                self.chosen.push(item);
            }
        }
    }

    /// Fills up with any items: drawn ones, and where these do not suffice, all from a drawn one on.
    fn fill(&mut self, seed: Seed) {
        let n_items = self.items.len() as u64;
        // Four draws for each missing one hit an unused text nearly always where there are many.
        let n_draws = 4 * (self.n - self.chosen.len()) as u64;
        let draw = |position| (seed.at(position).0 % n_items) as u32;
        self.take((0..n_draws).map(draw));
        let first = u64::from(draw(n_draws));
        self.take((0..n_items).map(|step| ((first + step) % n_items) as u32));
    }
}
