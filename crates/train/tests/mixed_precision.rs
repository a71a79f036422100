//! Gradients of a contrastive step computed in bf16 against those in `f32`, tensor by tensor.
//!
//! Of transformers: a MobileNet's gates amplify rounding, its gradients in bf16 are at 0.96.
//! Tolerance: a cosine of 0.999 for every tensor whose gradient is more than rounding; loss within 1 %.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use conjoin_core::{Gradients, Parameter, Seed, Tower};
use conjoin_input::{ImageContract, Pixels};
use conjoin_model::{
    EncoderInput, EncoderSpec, ImageSpec, ImageTower, NameMap, Pooling, Precision, TextTower,
};
use conjoin_train::{
    Chunking, FalseNegatives, InfoNce, Labels, LossScalar, Reduction, Side, Sink, Task, step,
};
use rand::Rng as _;

const SIDE: usize = 64;
const B: usize = 24;

fn encoder(input: EncoderInput) -> EncoderSpec {
    let spec = EncoderSpec::pre_norm(input, 128, 4, 4).projected(64);
    EncoderSpec { pooling: Pooling::Mean, ..spec }
}

fn text_tower() -> TextTower {
    let input = EncoderInput::Tokens { vocabulary: 500, max_tokens: 24, positions: true, types: 0 };
    TextTower::build(&encoder(input), &NameMap::default(), Seed(1)).unwrap()
}

fn image_tower() -> ImageTower {
    let input =
        EncoderInput::Patches { image_size: SIDE, patch_size: 16, bias: true, class_token: false };
    let (spec, contract) = (ImageSpec::Transformer(encoder(input)), ImageContract::clip(SIDE));
    ImageTower::build(&spec, &contract, &NameMap::default(), Seed(2)).unwrap()
}

fn texts() -> Vec<Vec<u32>> {
    let text = |i: usize| {
        let mut rng = Seed(3).at(i as u64).rng();
        (0..4 + i % 20).map(|_| rng.random_range(0..500)).collect()
    };
    (0..B).map(text).collect()
}

/// Smooth pictures: noise alone looks the same to a tower.
fn pictures() -> Vec<Pixels> {
    let picture = |i: usize| {
        let mut rng = Seed(4).at(i as u64).rng();
        let waves: Vec<[f32; 3]> = (0..3).map(|_| rng.random::<[f32; 3]>()).collect();
        let pixel = |at: usize| {
            let (row, column, channel) = (at / (3 * SIDE), at / 3 % SIDE, at % 3);
            let [x, y, phase] = waves[channel];
            let angle = (row as f32 * x + column as f32 * y) * 0.4 + 6.0 * phase;
            (127.5 + 120.0 * angle.sin()) as u8
        };
        Pixels::new(SIDE, SIDE, (0..3 * SIDE * SIDE).map(pixel).collect()).unwrap()
    };
    (0..B).map(picture).collect()
}

/// What a step gives.
struct Stepped {
    loss: f64,
    text: TextTower,
    d_text: Gradients,
    image: ImageTower,
    d_image: Gradients,
}

fn stepped(precision: Precision) -> Stepped {
    let (mut text, mut image) = (text_tower(), image_tower());
    text.set_precision(&precision.into()).unwrap();
    image.set_precision(&precision.into()).unwrap();
    let (texts, pictures) = (texts(), pictures());
    let (texts, pictures): (Vec<_>, Vec<_>) = (texts.iter().collect(), pictures.iter().collect());
    let mut d_text = Gradients::zeros(text.parameters());
    let mut d_image = Gradients::zeros(image.parameters());
    let scalar = LossScalar { name: "log_scale", init: 2.6, min: 0.0, max: 5.0, learned: true };
    let loss = InfoNce::new(Reduction::SymmetricSum, scalar);
    let chunking = Chunking { size: 7, held: 14 };
    let outcome = step(
        &mut Sink { tower: &text, chunking, gradients: &mut d_text },
        &mut Sink { tower: &image, chunking, gradients: &mut d_image },
        &Task {
            queries: Side::Texts(&texts),
            documents: Side::Images(&pictures),
            false_negatives: &FalseNegatives::none(),
            labels: Labels::None,
            loss: &loss,
            scalars: &[2.6],
            weight: 1.0,
        },
    );
    Stepped { loss: outcome.unwrap().loss, text, d_text, image, d_image }
}

#[track_caller]
fn check(parameters: &[Parameter], exact: &Gradients, found: &Gradients) {
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let largest = exact.iter().map(norm).fold(0.0, f64::max);
    let mut coarser = false;
    for (parameter, (exact, found)) in parameters.iter().zip(exact.iter().zip(found.iter())) {
        // The bias of keys has no gradient but rounding: it moves all scores of a query alike.
        if norm(exact) < 1e-6 * largest {
            continue;
        }
        let dot: f64 = exact.iter().zip(found).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let cosine = dot / (norm(exact) * norm(found));
        assert!(cosine >= 0.999, "{}: cosine {cosine}", parameter.name);
        coarser |= exact != found;
    }
    assert!(coarser, "bf16 was not used");
}

#[test]
fn gradients_in_bf16_point_where_those_in_f32_do() {
    let (exact, found) = (stepped(Precision::F32), stepped(Precision::Bf16));
    assert!((found.loss / exact.loss - 1.0).abs() < 0.01, "{} {}", found.loss, exact.loss);
    check(exact.text.parameters(), &exact.d_text, &found.d_text);
    check(exact.image.parameters(), &exact.d_image, &found.d_image);
}
