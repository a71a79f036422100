//! Patches left out of pictures in training, so that a step costs less and sees less of each.
//!
//! In:  prepared [`Pixels`], a seed. Out: the same with the patches that are seen.
//! Not here: cutting pictures into patches, leaving them out (`conjoin-model`).
//! Source: FLIP (Li et al. 2023, §3); how many are kept as in open_clip's `PatchDropout`.

use conjoin_core::Seed;
use serde::Serialize;

use crate::Pixels;

/// Leaves a random share of the patches of each picture out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PatchDropout {
    n_patches: usize,
    n_kept: usize,
}

impl PatchDropout {
    /// Leaves nothing out.
    #[must_use]
    pub fn none() -> Self {
        Self { n_patches: 0, n_kept: 0 }
    }

    /// Keeps `⌊n (1 − share)⌋` of `n` patches, at least one.
    #[must_use]
    pub fn new(share: f64, n_patches: usize) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a number of patches"
        )]
        let n_kept = (n_patches as f64 * (1.0 - share).clamp(0.0, 1.0)) as usize;
        Self { n_patches, n_kept: n_kept.max(1).min(n_patches) }
    }

    /// Whether anything is left out.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.n_kept < self.n_patches
    }

    /// A picture with the patches that are seen of it. Equal seeds keep equal patches.
    ///
    /// # Panics
    /// When a picture has 2^32 patches or more.
    #[must_use]
    pub fn apply(&self, pixels: Pixels, seed: Seed) -> Pixels {
        if !self.drops() {
            return pixels;
        }
        let mut rng = seed.rng();
        let mut kept = rand::seq::index::sample(&mut rng, self.n_patches, self.n_kept).into_vec();
        kept.sort_unstable();
        let number = |patch| u32::try_from(patch).expect("fewer patches than 2^32");
        pixels.with_patches(kept.into_iter().map(number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(dropout: PatchDropout, seed: u64) -> Option<Vec<u32>> {
        let pixels = dropout.apply(Pixels::filled(4, 4, [1, 2, 3]), Seed(seed));
        pixels.kept_patches().map(<[u32]>::to_vec)
    }

    #[test]
    fn keeps_as_many_as_open_clip() {
        for (n, share, expected) in [(196, 0.5, 98), (196, 0.1, 176), (10, 0.1, 9), (3, 0.9, 1)] {
            let kept = kept(PatchDropout::new(share, n), 1).unwrap();
            assert_eq!(kept.len(), expected, "{share} of {n}");
            assert!(kept.is_sorted_by(|a, b| a < b) && (kept[expected - 1] as usize) < n);
        }
    }

    #[test]
    fn every_seed_keeps_others_and_each_patch_as_often() {
        let dropout = PatchDropout::new(0.5, 16);
        assert_eq!(kept(dropout, 1), kept(dropout, 1));
        assert_ne!(kept(dropout, 1), kept(dropout, 2));
        let mut times = [0; 16];
        for seed in 0..2000 {
            kept(dropout, seed).unwrap().iter().for_each(|patch| times[*patch as usize] += 1);
        }
        assert!(times.iter().all(|n| (880..1120).contains(n)), "{times:?}");
    }

    #[test]
    fn a_share_of_zero_leaves_pictures_as_they_are() {
        assert_eq!(kept(PatchDropout::new(0.0, 16), 1), None);
        assert_eq!(kept(PatchDropout::none(), 1), None);
    }
}
