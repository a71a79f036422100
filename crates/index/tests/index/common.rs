//! What the index's tests share: seeded unit vectors and small indexes.

use std::path::Path;

use conjoin_core::Seed;
use conjoin_index::{Calibration, Index, IndexBuilder, IndexItem, ManifestParts};
use rand::Rng;

/// Scales a vector to unit length.
pub(crate) fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let length = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    v.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    v
}

/// A seeded direction, roughly normal in each value.
pub(crate) fn direction(seed: Seed, width: usize) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..width).map(|_| (0..6).map(|_| rng.random_range(-1.0..1.0_f32)).sum()).collect()
}

pub(crate) fn build(path: &Path, items: Vec<IndexItem>, calibration: Option<Calibration>) -> Index {
    let width = items.iter().find_map(|i| i.text.as_ref().or(i.image.as_ref())).unwrap().len();
    let mut builder = IndexBuilder::create(path, "model", width).unwrap();
    calibration.into_iter().for_each(|c| builder.calibrate(c).unwrap());
    items.into_iter().for_each(|item| builder.add(item).unwrap());
    builder.commit(ManifestParts::default()).unwrap();
    Index::open(path).unwrap()
}

/// `n` items, a third each with text, image and both; every fourth has a picture.
pub(crate) fn items(n: usize, width: usize, seed: Seed) -> Vec<IndexItem> {
    let vector = |i: usize, name: &str| unit(direction(seed.stream(name).at(i as u64), width));
    let item = |i: usize| IndexItem {
        id: format!("item {i}"),
        payload: [("title".to_owned(), format!("Title {i} “é”"))].into(),
        text: (i % 3 != 1).then(|| vector(i, "text")),
        image: (!i.is_multiple_of(3)).then(|| vector(i, "image")),
        picture: i.is_multiple_of(4).then(|| format!("picture {i}").into_bytes()),
    };
    (0..n).map(item).collect()
}
