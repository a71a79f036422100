//! Selection and adapters on the model crate's own towers: their real names, shapes and gradients.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use conjoin_core::{Embeddings, Gradients, Parameter, Seed, Tower};
use conjoin_input::{ImageContract, Pixels};
use conjoin_model::{
    EncoderInput, EncoderSpec, ImageSpec, ImageTower, MobileNetBlock, MobileNetSpec, NameMap,
    Pooling, TextTower,
};
use conjoin_train::{AdamW, AdamWConfig, Lora, LoraConfig, LoraTarget, SelectionConfig};
use rand::Rng as _;

const SIDE: usize = 32;
const WIDTH: usize = 8;

fn encoder(input: EncoderInput) -> EncoderSpec {
    let spec = EncoderSpec::pre_norm(input, 16, 2, 2).projected(WIDTH);
    EncoderSpec { pooling: Pooling::Mean, ..spec }
}

fn text_tower() -> TextTower {
    let input = EncoderInput::Tokens { vocabulary: 50, max_tokens: 8, positions: true, types: 2 };
    TextTower::build(&encoder(input), &NameMap::default(), Seed(1)).unwrap()
}

fn image_tower(spec: &ImageSpec) -> ImageTower {
    let contract = ImageContract::clip(SIDE);
    ImageTower::build(spec, &contract, &NameMap::default(), Seed(2)).unwrap()
}

fn vision_transformer() -> ImageTower {
    let input =
        EncoderInput::Patches { image_size: SIDE, patch_size: 16, bias: true, class_token: true };
    image_tower(&ImageSpec::Transformer(encoder(input)))
}

fn mobilenet() -> ImageTower {
    let block = |filters, stride| MobileNetBlock { filters, stride };
    let blocks = vec![block(16, 1), block(16, 2)];
    let projection = Some(WIDTH);
    image_tower(&ImageSpec::MobileNet(MobileNetSpec {
        image_size: SIDE,
        stem_filters: 8,
        stem_stride: 2,
        blocks,
        projection,
    }))
}

fn texts() -> Vec<Vec<u32>> {
    vec![vec![3, 7, 11, 2], vec![40, 1], vec![9, 9, 30, 31, 5]]
}

fn pictures() -> Vec<Pixels> {
    let picture = |i: u64| {
        let mut rng = Seed(i).rng();
        Pixels::new(SIDE, SIDE, (0..SIDE * SIDE * 3).map(|_| rng.random()).collect()).unwrap()
    };
    (1..=3).map(picture).collect()
}

/// Expects that the names of the parameters at a depth start with one of the words: before the layers,
/// in them, after them.
#[track_caller]
fn check_depths(parameters: &[Parameter], prefix: &str, words: [&[&str]; 3]) {
    let config = SelectionConfig { layer_decay: 0.5, ..SelectionConfig::default() };
    let selection = config.select("tower", parameters).unwrap();
    let mut seen = [false; 3];
    for (parameter, multiplier) in parameters.iter().zip(selection.lr_multipliers) {
        let name = parameter.name.strip_prefix(prefix).unwrap();
        let depth = [0.125, 0.25, 0.5, 1.0].iter().position(|m| *m == multiplier).unwrap();
        let place = depth.div_ceil(2);
        assert!(words[place].iter().any(|word| name.starts_with(word)), "{name} at {depth}");
        if place == 1 {
            assert!(name.contains(&format!(".{}.", depth - 1)), "{name} at {depth}");
        }
        seen[place] = true;
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn parameters_stand_where_their_names_say() {
    let tower = text_tower();
    let before: &[&str] = &["tokens.", "positions.", "types."];
    check_depths(tower.parameters(), "text.", [before, &["layers."], &["output_norm.", "head."]]);
    let tower = vision_transformer();
    let before: &[&str] = &["patch.", "class", "positions.", "input_norm."];
    check_depths(tower.parameters(), "image.", [before, &["layers."], &["output_norm.", "head."]]);
    let tower = mobilenet();
    check_depths(tower.parameters(), "image.", [&["stem."], &["blocks."], &["projection."]]);
}

fn target(suffix: &str) -> LoraTarget {
    let (prefix, suffix) = (String::new(), suffix.to_owned());
    LoraTarget { prefix, suffix, blocks: 1, adapted: Vec::new() }
}

/// All matrices of the layers, queries and values apart.
fn of_transformer() -> Vec<LoraTarget> {
    let qkv = LoraTarget { blocks: 3, adapted: vec![0, 2], ..target("attention.qkv.weight") };
    vec![qkv, target("attention.out.weight"), target("mlp.up.weight"), target("mlp.down.weight")]
}

/// `Σ embeddings ∘ slope`.
fn score<T: Tower>(tower: &T, inputs: &[&T::Input], slope: &Embeddings) -> f64 {
    let embeddings = tower.embed(inputs).unwrap();
    let products = embeddings.values().iter().zip(slope.values());
    products.map(|(e, s)| f64::from(*e) * f64::from(*s)).sum()
}

fn normal(n: usize, seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn adapter_gradients<T: Tower>(
    tower: &T,
    lora: &Lora,
    inputs: &[&T::Input],
    slope: &Embeddings,
) -> Gradients {
    let (_, recording) = tower.record(inputs).unwrap();
    let mut of_tower = Gradients::zeros(tower.parameters());
    tower.backward(recording, slope, &mut of_tower);
    let mut gradients = Gradients::zeros(lora.adapters());
    lora.project(&of_tower, &mut gradients);
    gradients
}

/// Freezes a tower, adapts it, compares the adapters' gradient with a difference along its own direction (within
/// 2 %: the tower is f32), and climbs.
#[track_caller]
fn check_adapted<T: Tower>(mut tower: T, inputs: &[&T::Input], targets: Vec<LoraTarget>) {
    tower.parameters_mut().iter_mut().for_each(|p| p.frozen = true);
    let config = LoraConfig { rank: 2, alpha: 4.0, targets };
    let mut lora = Lora::new(&config, "lora", tower.parameters(), Seed(3)).unwrap();
    lora.unfreeze(tower.parameters_mut());
    for adapter in lora.adapters_mut() {
        let values = normal(adapter.value.len(), Seed(4).stream(&adapter.name));
        adapter.value.iter_mut().zip(values).for_each(|(a, v)| *a += 0.05 * v);
    }
    lora.merge_into(tower.parameters_mut());
    let slope = Embeddings::new(WIDTH, normal(inputs.len() * WIDTH, Seed(5))).unwrap();
    let gradients = adapter_gradients(&tower, &lora, inputs, &slope);
    let square: f64 = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum();
    assert!(gradients.iter().all(|g| g.iter().any(|g| *g != 0.0)), "every adapter has a gradient");
    let step = 1e-2 / square.sqrt();
    let mut at = |by: f64| {
        let mut moved = lora.clone();
        for (adapter, gradient) in moved.adapters_mut().iter_mut().zip(gradients.iter()) {
            adapter
                .value
                .iter_mut()
                .zip(gradient)
                .for_each(|(a, g)| *a += (by * f64::from(*g)) as f32);
        }
        moved.merge_into(tower.parameters_mut());
        score(&tower, inputs, &slope)
    };
    let slope_found = (at(step) - at(-step)) / (2.0 * step);
    assert!((slope_found - square).abs() < 0.02 * square, "{slope_found}, expected {square}");
    climb(tower, lora, inputs, &slope);
}

fn climb<T: Tower>(mut tower: T, mut lora: Lora, inputs: &[&T::Input], slope: &Embeddings) {
    lora.merge_into(tower.parameters_mut());
    let config = AdamWConfig {
        betas: (0.9, 0.98),
        eps: 1e-6,
        weight_decay: 0.0,
        lr_multipliers: Vec::new(),
    };
    let mut optimizer = AdamW::new(config, lora.adapters());
    let untouched: Vec<Vec<f32>> =
        tower.parameters().iter().filter(|p| p.frozen).map(|p| p.value.to_vec()).collect();
    let before = score(&tower, inputs, slope);
    for _ in 0..20 {
        let gradients = adapter_gradients(&tower, &lora, inputs, slope);
        optimizer.step(lora.adapters_mut(), &gradients, 0.01, -1.0);
        lora.merge_into(tower.parameters_mut());
    }
    let after = score(&tower, inputs, slope);
    assert!(after > before + 0.3, "{before} {after}");
    let frozen = tower.parameters().iter().filter(|p| p.frozen);
    assert!(frozen.map(|p| &*p.value).eq(untouched.iter().map(Vec::as_slice)));
}

#[test]
fn grad_adapters_agree_with_differences_and_learn_in_every_tower() {
    let texts = texts();
    check_adapted(text_tower(), &texts.iter().collect::<Vec<_>>(), of_transformer());
    let pictures = pictures();
    let pictures: Vec<&Pixels> = pictures.iter().collect();
    check_adapted(vision_transformer(), &pictures, of_transformer());
    let targets = ["pointwise.weight", "projection.weight", "stem.weight"].map(target).to_vec();
    check_adapted(mobilenet(), &pictures, targets);
}
