//! Splits follow the source, else the group; groups never straddle a drawn split.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn given(word: u8) -> Option<Split> {
    match word {
        0 => Some(Split::Train),
        1 => Some(Split::Val),
        _ => None,
    }
}

fn ballots(rows: &[(String, Option<Split>)]) -> Vec<Ballot<'_>> {
    rows.iter().map(|(group, given)| Ballot { group, given: *given }).collect()
}

fn groups_of<'a>(
    rows: &'a [(String, Option<Split>)],
    splits: &[Split],
    of: Split,
) -> HashSet<&'a str> {
    let pairs = rows.iter().zip(splits).filter(|(_, split)| **split == of);
    pairs.map(|((group, _), _)| group.as_str()).collect()
}

proptest! {
    #[test]
    fn prop_drawn_groups_are_disjoint_and_both_sides_filled(
        groups in prop::collection::vec(0_u8..40, 1..60),
        fraction in 0.001_f64..0.999,
        seed in any::<u64>(),
    ) {
        let rows: Vec<_> = groups.iter().map(|g| (format!("g{g}"), None)).collect();
        let splits = assign(&ballots(&rows), fraction, Seed(seed)).splits;
        let train = groups_of(&rows, &splits, Split::Train);
        let val = groups_of(&rows, &splits, Split::Val);
        prop_assert!(train.is_disjoint(&val));
        let n_groups = groups.iter().collect::<HashSet<_>>().len();
        prop_assert_eq!(train.is_empty() || val.is_empty(), n_groups < 2);
    }

    #[test]
    fn prop_given_splits_stand_and_only_they_straddle(
        rows in prop::collection::vec((0_u8..12, 0_u8..4), 1..60),
        seed in any::<u64>(),
    ) {
        let rows: Vec<_> = rows.iter().map(|(g, w)| (format!("g{g}"), given(*w))).collect();
        let result = assign(&ballots(&rows), 0.3, Seed(seed));
        for ((_, given), split) in rows.iter().zip(&result.splits) {
            prop_assert_eq!(given.unwrap_or(*split), *split);
        }
        let train = groups_of(&rows, &result.splits, Split::Train);
        for (i, (group, given)) in rows.iter().enumerate() {
            let straddles = result.splits[i] == Split::Val && train.contains(group.as_str());
            prop_assert_eq!(straddles, result.straddling.contains(&i));
            prop_assert!(!straddles || given.is_some());
        }
    }

    #[test]
    fn prop_adding_rows_moves_no_other_group(n in 30_usize..80, seed in any::<u64>()) {
        let rows: Vec<_> = (0..n + 20).map(|i| (format!("group {i}"), None)).collect();
        let few = assign(&ballots(&rows[..n]), 0.5, Seed(seed)).splits;
        let more = assign(&ballots(&rows), 0.5, Seed(seed)).splits;
        prop_assert_eq!(&few[..], &more[..n]);
    }
}

#[test]
fn holds_out_about_the_asked_share() {
    let rows: Vec<_> = (0..20_000).map(|i| (format!("group {i}"), None)).collect();
    let splits = assign(&ballots(&rows), 0.1, Seed(3)).splits;
    let n_val = splits.iter().filter(|s| **s == Split::Val).count();
    assert!((1_850..2_150).contains(&n_val), "{n_val} of 20000");
}

#[test]
fn a_fraction_of_zero_or_one_takes_all() {
    let rows: Vec<_> = (0..50).map(|i| (format!("group {i}"), None)).collect();
    let all = |fraction| assign(&ballots(&rows), fraction, Seed(0)).splits;
    assert!(all(0.0).iter().all(|s| *s == Split::Train));
    assert!(all(1.0).iter().all(|s| *s == Split::Val));
}
