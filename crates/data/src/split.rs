//! Which items are held out.
//!
//! In:  each item's group, and its split where the source gives one. Out: each item's split.
//!
//! A group without a given split goes by a hash of its name alone, so adding rows moves no other group.

use std::collections::HashMap;

use conjoin_core::Seed;

use crate::item::Split;

/// What decides an item's split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ballot<'a> {
    /// Its group.
    pub(crate) group: &'a str,
    /// What the source says.
    pub(crate) given: Option<Split>,
}

#[derive(Default, Clone, Copy)]
struct Given {
    train: bool,
    val: bool,
}

/// The splits, and the indices of val items whose group is also in train.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) splits: Vec<Split>,
    pub(crate) straddling: Vec<usize>,
}

/// Assigns every item.
///
/// With `0 < val_fraction < 1`, at least one group lands on each side if there are two to share out.
pub(crate) fn assign(ballots: &[Ballot<'_>], val_fraction: f64, seed: Seed) -> Assignment {
    let mut given: HashMap<&str, Given> = HashMap::new();
    for ballot in ballots {
        let entry = given.entry(ballot.group).or_default();
        entry.train |= ballot.given == Some(Split::Train);
        entry.val |= ballot.given == Some(Split::Val);
    }
    let is_free = |group: &str| !given[group].train && !given[group].val;
    let mut splits: Vec<Split> = ballots
        .iter()
        .map(|ballot| match (ballot.given, given[ballot.group]) {
            (Some(split), _) => split,
            (None, Given { train: true, .. }) => Split::Train,
            (None, Given { val: true, .. }) => Split::Val,
            (None, _) if position(ballot.group, seed) < val_fraction => Split::Val,
            (None, _) => Split::Train,
        })
        .collect();
    if val_fraction > 0.0 && val_fraction < 1.0 {
        let free: Vec<&str> = ballots.iter().map(|b| b.group).filter(|g| is_free(g)).collect();
        fill_empty_side(ballots, &free, &mut splits, seed);
    }
    let straddling = (0..ballots.len())
        .filter(|&i| splits[i] == Split::Val && given[ballots[i].group].train)
        .collect();
    Assignment { splits, straddling }
}

/// Moves the group nearest to the border when one side has nobody.
fn fill_empty_side(ballots: &[Ballot<'_>], free: &[&str], splits: &mut [Split], seed: Seed) {
    let by_position = |a: &&&str, b: &&&str| {
        position(a, seed).total_cmp(&position(b, seed)).then_with(|| a.cmp(b))
    };
    let (moved, to) = if !splits.contains(&Split::Val) {
        (free.iter().min_by(by_position), Split::Val)
    } else if !splits.contains(&Split::Train) {
        (free.iter().max_by(by_position), Split::Train)
    } else {
        return;
    };
    let Some(moved) = moved else { return };
    if ballots.iter().all(|ballot| ballot.group == *moved) {
        return; // It is the only group; moving it would empty the other side.
    }
    let in_group = ballots.iter().map(|ballot| ballot.group == *moved);
    splits.iter_mut().zip(in_group).filter(|(_, is)| *is).for_each(|(split, _)| *split = to);
}

/// A group's place in `[0, 1)`.
fn position(group: &str, seed: Seed) -> f64 {
    let hash = seed.stream("split").stream(group).0;
    // The upper 53 bits fill a double exactly.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
