//! Which pairs of a batch must not count as negatives.
//!
//! In:  one id per row and aspect (text, image, group). Out: for two rows, whether any aspect is
//!      equal.
//! Not here: arranging batches so that few of them occur (`sampler`).

use std::collections::HashMap;

/// The rows of a batch that show the same thing.
///
/// Two different rows with an equal id in any aspect are not negatives of each other: the same
/// caption fits both images, or the same image fits both captions.
#[derive(Debug, Clone, Default)]
pub struct FalseNegatives {
    aspects: Vec<Vec<u64>>,
    repeated: Vec<bool>,
}

impl FalseNegatives {
    /// Every other row is a negative.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Compares rows by each aspect's ids, `[b]` each; aspects without ids are left out.
    ///
    /// # Panics
    /// When two aspects have ids for different numbers of rows.
    #[must_use]
    pub fn by_ids(aspects: &[&[u64]]) -> Self {
        let aspects: Vec<Vec<u64>> =
            aspects.iter().filter(|ids| !ids.is_empty()).map(|ids| ids.to_vec()).collect();
        let b = aspects.first().map_or(0, Vec::len);
        let mut repeated = vec![false; b];
        for ids in &aspects {
            assert_eq!(ids.len(), b, "every aspect has one id per row");
            mark_repeated(ids, &mut repeated);
        }
        Self { aspects, repeated }
    }

    /// Whether `row` shares an id with another row.
    #[must_use]
    pub fn any_in_row(&self, row: usize) -> bool {
        self.repeated.get(row).copied().unwrap_or(false)
    }

    /// Whether rows `i` and `j` are different rows with an equal id.
    ///
    /// # Panics
    /// When ids were given and a row is out of range.
    #[must_use]
    pub fn contains(&self, i: usize, j: usize) -> bool {
        i != j && self.aspects.iter().any(|ids| ids[i] == ids[j])
    }

    /// Number of ordered pairs that do not count as negatives; quadratic, for small batches.
    #[must_use]
    pub fn count(&self) -> usize {
        let rows = 0..self.repeated.len();
        rows.clone()
            .filter(|&i| self.repeated[i])
            .map(|i| rows.clone().filter(|&j| self.contains(i, j)).count())
            .sum()
    }

    pub(super) fn assert_rows(&self, b: usize) {
        let fits = self.aspects.is_empty() || self.repeated.len() == b;
        assert!(fits, "{} ids for {b} rows", self.repeated.len());
    }
}

fn mark_repeated(ids: &[u64], repeated: &mut [bool]) {
    let mut counts: HashMap<u64, usize> = HashMap::with_capacity(ids.len());
    for id in ids {
        *counts.entry(*id).or_default() += 1;
    }
    for (mark, id) in repeated.iter_mut().zip(ids) {
        *mark |= counts[id] > 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_an_equal_id_in_any_aspect_are_no_negatives() {
        let same = FalseNegatives::by_ids(&[&[1, 2, 1, 3], &[], &[7, 8, 9, 8]]);
        assert!(same.contains(0, 2) && same.contains(2, 0), "equal text");
        assert!(same.contains(1, 3), "equal image");
        assert!(!same.contains(0, 1) && !same.contains(0, 0));
        assert_eq!(same.count(), 4);
        assert!(!FalseNegatives::by_ids(&[&[1, 2]]).any_in_row(0));
    }
}
