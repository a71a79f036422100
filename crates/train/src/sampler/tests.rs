//! Every pair once per epoch, the same batches from the same seed, equal things apart.

use super::*;

fn sampler(n: usize, batch: usize, drop_last: bool, aspects: &[&[u64]]) -> Sampler {
    Sampler::new(n, SamplerConfig { batch, drop_last }, Seed(9), aspects).unwrap()
}

fn epoch_of(sampler: &Sampler, epoch: u64) -> Vec<Vec<usize>> {
    let n = sampler.n_batches() as u64;
    (epoch * n..(epoch + 1) * n).map(|step| sampler.batch(step)).collect()
}

/// Pairs of rows in one batch with an equal id.
fn n_repeats(batches: &[Vec<usize>], ids: &[u64]) -> usize {
    let repeats = |batch: &Vec<usize>| {
        let mut ids: Vec<u64> = batch.iter().map(|row| ids[*row]).collect();
        ids.sort_unstable();
        ids.windows(2).filter(|pair| pair[0] == pair[1]).count()
    };
    batches.iter().map(repeats).sum()
}

#[test]
fn an_epoch_has_every_pair_once_in_a_new_order() {
    for ids in [vec![], (0..103).map(|i| i / 2).collect::<Vec<u64>>()] {
        let sampler = sampler(103, 10, false, &[&ids]);
        let (first, second) = (epoch_of(&sampler, 0), epoch_of(&sampler, 1));
        for epoch in [&first, &second] {
            let sizes: Vec<usize> = epoch.iter().map(Vec::len).collect();
            assert_eq!(sizes, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 3]);
            let mut rows = epoch.concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..103).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
    }
}

#[test]
fn drop_last_leaves_other_pairs_out_in_every_epoch() {
    let sampler = sampler(103, 10, true, &[]);
    assert_eq!(sampler.n_batches(), 10);
    let left_out = |epoch: u64| -> Vec<usize> {
        let rows = epoch_of(&sampler, epoch).concat();
        assert_eq!(rows.len(), 100);
        (0..103).filter(|row| !rows.contains(row)).collect()
    };
    assert_ne!(left_out(0), left_out(1));
}

#[test]
fn a_batch_follows_from_seed_and_step_alone() {
    let ids: Vec<u64> = (0..60).map(|i| i % 25).collect();
    let in_order = sampler(60, 7, true, &[&ids]);
    let jumping = sampler(60, 7, true, &[&ids]);
    let expected: Vec<Vec<usize>> = (0..40).map(|step| in_order.batch(step)).collect();
    for step in [39_u64, 0, 17, 8, 31, 16, 0] {
        assert_eq!(jumping.batch(step), expected[step as usize]);
    }
    let other = Sampler::new(60, in_order.config, Seed(10), &[&ids]).unwrap();
    assert_ne!(other.batch(0), expected[0]);
}

#[test]
fn equal_things_never_meet_where_that_can_be_avoided() {
    // Five captions per image, as in COCO, and some captions that many images share.
    let images: Vec<u64> = (0..1_000).map(|i| i / 5).collect();
    let texts: Vec<u64> = (0..1_000).map(|i| if i % 40 == 0 { 1 } else { 10 + i }).collect();
    let arranged = sampler(1_000, 32, true, &[&images, &texts]);
    let plain = sampler(1_000, 32, true, &[]);
    for epoch in 0..3 {
        let batches = epoch_of(&arranged, epoch);
        assert_eq!(n_repeats(&batches, &images), 0);
        assert_eq!(n_repeats(&batches, &texts), 0);
        assert!(n_repeats(&epoch_of(&plain, epoch), &images) > 20, "so it is not luck");
    }
}

#[test]
fn equal_things_that_must_meet_are_spread_evenly() {
    // Half of all pairs show the same thing: five of every ten, no batch more.
    let ids: Vec<u64> = (0..100).map(|i| if i % 2 == 0 { 0 } else { i }).collect();
    for batch in epoch_of(&sampler(100, 10, true, &[&ids]), 0) {
        assert_eq!(batch.iter().filter(|row| **row % 2 == 0).count(), 5);
    }
}

#[test]
fn arranging_keeps_neighbours_of_an_epoch_random() {
    // A row's batch-mates differ from epoch to epoch.
    let ids: Vec<u64> = (0..200).map(|i| i / 2).collect();
    let sampler = sampler(200, 20, true, &[&ids]);
    let mates = |epoch: u64| -> Vec<usize> {
        let batches = epoch_of(&sampler, epoch);
        batches.into_iter().find(|batch| batch.contains(&0)).unwrap()
    };
    let shared = mates(0).iter().filter(|row| mates(1).contains(row)).count();
    assert!(shared < 10, "{shared} of 20 are the same");
}

#[test]
fn refuses_data_without_a_whole_batch() {
    let config = SamplerConfig { batch: 256, drop_last: true };
    let error = Sampler::new(32, config, Seed(1), &[]).unwrap_err();
    assert_eq!(error.to_string(), "a batch takes 256 pairs, the data has 32");
    let error = Sampler::new(300, config, Seed(1), &[&[], &[1, 2]]).unwrap_err();
    assert_eq!(error.to_string(), "aspect 1 has 2 ids for 300 pairs");
}
