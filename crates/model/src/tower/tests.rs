//! Layers that are computed twice, and pictures of which some patches are left out.

use conjoin_core::{Gradients, Seed, Tower};
use conjoin_engine::{Mask, Pairing};
use rand::Rng as _;

use super::*;
use crate::{MobileNetSpec, Pooling, Rotary, RotaryAxes, ScoreBias, spec::NormPlacement};

const SIDE: usize = 32;
const WIDTH: usize = 8;

fn random(n: usize, seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn texts() -> Vec<Vec<u32>> {
    let text = |i: u32| (0..5 + 3 * i).map(|k| (7 * k + i) % 50).collect();
    (0..5).map(text).collect()
}

fn pictures() -> Vec<Pixels> {
    let picture = |i: u64| {
        let mut rng = Seed(i).rng();
        Pixels::new(SIDE, SIDE, (0..SIDE * SIDE * 3).map(|_| rng.random()).collect()).unwrap()
    };
    (1..=3).map(picture).collect()
}

fn encoder(input: EncoderInput) -> EncoderSpec {
    EncoderSpec::pre_norm(input, 32, 4, 4).projected(WIDTH)
}

/// Every kind of layer: norms before and after, scores by distance, rotary places, a causal mask.
fn text_specs() -> Vec<EncoderSpec> {
    let input = EncoderInput::Tokens { vocabulary: 50, max_tokens: 40, positions: true, types: 0 };
    let spec = EncoderSpec { pooling: Pooling::Mean, ..encoder(input) };
    let mut post = spec.clone();
    post.norm.placement = NormPlacement::Post;
    post.attention.score_bias = ScoreBias::Buckets { buckets: 8, max_distance: 16 };
    let mut rotary = spec.clone();
    rotary.attention.mask = Mask::Causal;
    let (theta, pairing) = (100.0, Pairing::Halves);
    rotary.attention.rotary = Some(Rotary { theta, pairing, axes: RotaryAxes::Sequence });
    vec![spec, post, rotary]
}

fn image_tower(spec: &ImageSpec) -> ImageTower {
    ImageTower::build(spec, &ImageContract::clip(SIDE), &NameMap::default(), Seed(2)).unwrap()
}

fn image_spec(image_size: usize, class_token: bool) -> EncoderSpec {
    let input = EncoderInput::Patches { image_size, patch_size: 8, bias: true, class_token };
    let pooling = if class_token { Pooling::First } else { Pooling::Mean };
    EncoderSpec { pooling, ..encoder(input) }
}

fn vision_transformer() -> ImageTower {
    image_tower(&ImageSpec::Transformer(image_spec(SIDE, true)))
}

/// What is held between the two ways, and the most that was held at all.
struct Held {
    between: usize,
    most: usize,
}

/// Embeddings and gradients, and the bytes they took besides the weights.
fn step<T: Tower + Precise>(
    mut tower: T,
    inputs: &[T::Input],
    checkpoints: bool,
) -> (Embeddings, Gradients, Held) {
    assert!(tower.checkpoint_layers(checkpoints));
    let inputs: Vec<&T::Input> = inputs.iter().collect();
    let (embeddings, recording) = tower.record(&inputs).unwrap();
    let of = |workspace: &Workspace| workspace.pool().held_bytes() - workspace.packed_bytes();
    let between = of(tower.workspace_mut());
    let dy = random(embeddings.values().len(), Seed(3));
    let dy = Embeddings::new(embeddings.width(), dy).unwrap();
    let mut gradients = Gradients::zeros(tower.parameters());
    tower.backward(recording, &dy, &mut gradients);
    let workspace = tower.workspace_mut();
    let most = workspace.pool().most_held_bytes() - workspace.packed_bytes();
    (embeddings, gradients, Held { between, most })
}

#[track_caller]
fn check<T: Tower + Precise>(make: impl Fn() -> T, inputs: &[T::Input]) {
    let (embeddings, expected, whole) = step(make(), inputs, false);
    let (same, found, less) = step(make(), inputs, true);
    assert_eq!(embeddings, same);
    assert_eq!(expected, found, "not a bit is another");
    assert!(found.iter().filter(|g| g.iter().any(|g| *g != 0.0)).count() > 10);
    assert!(4 * less.between < whole.between, "{} of {} bytes", less.between, whole.between);
    assert!(3 * less.most < 2 * whole.most, "{} of {} bytes", less.most, whole.most);
}

#[test]
fn grad_checkpointed_layers_give_the_same_gradients_and_hold_less() {
    for spec in text_specs() {
        check(|| TextTower::build(&spec, &NameMap::default(), Seed(1)).unwrap(), &texts());
    }
    check(vision_transformer, &pictures());
    let frozen = || {
        let mut tower = vision_transformer();
        let layers = ["image.patch", "image.class", "image.positions", "image.layers.0"];
        for parameter in tower.parameters_mut() {
            parameter.frozen = layers.iter().any(|layer| parameter.name.starts_with(layer));
        }
        tower
    };
    check(frozen, &pictures());
}

#[test]
fn a_mobilenet_has_no_layers_to_compute_twice() {
    let mut net = image_tower(&ImageSpec::MobileNet(MobileNetSpec::v1(0.25, SIDE, Some(WIDTH))));
    assert!(!net.checkpoint_layers(true) && net.checkpoint_layers(false));
}

/// Rotary places in a grid whose steps are 1, whatever its size.
fn turned(spec: EncoderSpec, side: usize) -> EncoderSpec {
    let (theta, pairing, extent) = (100.0, Pairing::Neighbours, side as f32);
    let mut spec = spec;
    let axes = RotaryAxes::Grid { extent };
    spec.attention.rotary = Some(Rotary { theta, pairing, axes });
    spec
}

/// The upper left quarter of a picture of `SIDE`.
fn quarter(pixels: &Pixels) -> Pixels {
    let half = SIDE / 2;
    let data = (0..half).flat_map(|y| pixels.row(y)[..half * 3].to_vec()).collect();
    Pixels::new(half, half, data).unwrap()
}

/// A tower for the upper left quarter alone, with the weights of one for the whole.
fn of_quarter(whole: &ImageTower, spec: &EncoderSpec, rows: &[usize]) -> ImageTower {
    let contract = ImageContract::clip(SIDE / 2);
    let spec = ImageSpec::Transformer(spec.clone());
    let mut tower = ImageTower::build(&spec, &contract, &NameMap::default(), Seed(2)).unwrap();
    for (own, from) in tower.parameters_mut().iter_mut().zip(whole.parameters()) {
        if own.name == "image.positions.weight" {
            let width = own.shape[1];
            let row = |row: &usize| from.value[row * width..(row + 1) * width].to_vec();
            own.value.copy_from_slice(&rows.iter().flat_map(row).collect::<Vec<_>>());
        } else {
            own.value.copy_from_slice(&from.value);
        }
    }
    tower
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let largest = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 1e-5 * largest.max(1e-3), "{what}: {f} for {e}");
    }
}

/// A picture whose other patches are left out is a picture of those that are kept: embeddings and all
/// gradients, with and without a class token, with and without rotary places.
#[test]
fn grad_patches_left_out_are_as_if_they_were_not_there() {
    for (class_token, rotary) in [(true, false), (true, true), (false, true)] {
        let (mut large, mut small) =
            (image_spec(SIDE, class_token), image_spec(SIDE / 2, class_token));
        if rotary {
            (large, small) = (turned(large, 4), turned(small, 2));
        }
        let whole = image_tower(&ImageSpec::Transformer(large));
        let kept = [0, 1, 4, 5];
        let before = usize::from(class_token);
        let rows = kept.iter().map(|patch| *patch as usize + before);
        let rows: Vec<usize> = class_token.then_some(0).into_iter().chain(rows).collect();
        let part = of_quarter(&whole, &small, &rows);
        let quarters: Vec<Pixels> = pictures().iter().map(quarter).collect();
        let (expected, d_expected, _) = step(part, &quarters, false);
        let keeping: Vec<Pixels> =
            pictures().into_iter().map(|p| p.with_patches(kept.to_vec())).collect();
        let (found, d_found, _) = step(whole, &keeping, false);
        assert_near(found.values(), expected.values(), "embeddings");
        for (p, (found, expected)) in d_found.iter().zip(d_expected.iter()).enumerate() {
            if found.len() == expected.len() {
                assert_near(found, expected, &format!("parameter {p}"));
            } else {
                let d = found.len() / (16 + before);
                let of_rows = rows.iter().flat_map(|row| &found[row * d..(row + 1) * d]).copied();
                assert_near(&of_rows.collect::<Vec<_>>(), expected, "positions");
                let left_out = (0..16 + before).filter(|row| !rows.contains(row));
                assert!(left_out.flat_map(|r| &found[r * d..(r + 1) * d]).all(|g| *g == 0.0));
            }
        }
    }
}

#[test]
fn keeping_all_patches_changes_no_bit_and_keeping_fewer_holds_less() {
    let all: Vec<Pixels> =
        pictures().into_iter().map(|p| p.with_patches((0..16).collect())).collect();
    let (plain, expected, whole) = step(vision_transformer(), &pictures(), false);
    let (same, found, _) = step(vision_transformer(), &all, false);
    assert_eq!((plain, expected), (same, found));
    let kept = [vec![0, 3, 7, 9], vec![1, 2, 14, 15], vec![4, 5, 6, 8]];
    let few: Vec<Pixels> =
        pictures().into_iter().zip(kept).map(|(p, k)| p.with_patches(k)).collect();
    let (some, _, less) = step(vision_transformer(), &few, false);
    assert!(2 * less.between < whole.between, "{} of {} bytes", less.between, whole.between);
    let tower = vision_transformer();
    for (i, one) in few.iter().enumerate() {
        let alone = tower.embed(&[one]).unwrap();
        assert_near(alone.values(), some.row(i), "a row never depends on its batch");
    }
}

#[test]
fn patches_that_a_tower_has_not_are_told() {
    let told = |tower: &ImageTower, kept: Vec<u32>| {
        let picture = Pixels::filled(SIDE, SIDE, [1, 2, 3]).with_patches(kept);
        tower.embed(&[&picture]).unwrap_err().to_string()
    };
    let tower = vision_transformer();
    let expected =
        "input 0 keeps some of its patches, this tower takes rising numbers of 16 patches";
    for kept in [vec![], vec![3, 16], vec![3, 3], vec![3, 1]] {
        assert_eq!(told(&tower, kept), expected);
    }
    let net = image_tower(&ImageSpec::MobileNet(MobileNetSpec::v1(0.25, SIDE, Some(WIDTH))));
    assert!(told(&net, vec![0]).ends_with("numbers of 0 patches"));
    // Distances between tokens would be others without those between.
    let mut by_distance = image_spec(SIDE, true);
    by_distance.attention.score_bias = ScoreBias::Alibi;
    let tower = image_tower(&ImageSpec::Transformer(by_distance));
    assert!(told(&tower, vec![0]).ends_with("numbers of 0 patches"));
}
