//! Gradients of chunks are those of the whole batch, with all that a recipe may ask for at once.
//!
//! Token dropout, patch dropout, hard negatives, a teacher's masks, Matryoshka, sigmoid, layers computed twice, adapters;
//! the last chunk is uneven. Tolerance: 1e-5 of the largest value of each tensor. Layers that are computed
//! twice change no bit.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use conjoin_core::{Embeddings, Gradients, Parameter, Seed, Stop, Tower};
use conjoin_engine::Pairing;
use conjoin_input::{ImageContract, PatchDropout, Pixels};
use conjoin_model::{
    EncoderInput, EncoderSpec, ImageSpec, ImageTower, NameMap, Pooling, Rotary, RotaryAxes,
    TextTower,
};
use conjoin_train::{
    BatchOf, ChunkConfig, Chunking, FalseNegatives, Ids, Inputs, Labels, Lora, LoraConfig,
    LoraTarget, Loss, LossConfig, MatryoshkaDim, Mixing, Negatives, Observer, OwnedLabels,
    Reduction, Rows, ScalarConfig, Side, Sink, Source, StepLog, Task, TaskBatch, TaskConfig,
    TeacherThreshold, TeacherVectors, TowerConfig, TrainConfig, Trainer, Weighted, step,
};
use rand::Rng as _;

const SIDE: usize = 32;
const WIDTH: usize = 8;
/// Queries of a batch, and hard negatives of each.
const B: usize = 11;
const M: usize = 2;
const PATCHES: usize = 16;

fn encoder(input: EncoderInput) -> EncoderSpec {
    EncoderSpec::pre_norm(input, 16, 3, 2).projected(WIDTH)
}

fn text_tower() -> TextTower {
    let input = EncoderInput::Tokens { vocabulary: 50, max_tokens: 24, positions: true, types: 0 };
    let spec = EncoderSpec { pooling: Pooling::Mean, ..encoder(input) };
    TextTower::build(&spec, &NameMap::default(), Seed(1)).unwrap()
}

fn image_tower() -> ImageTower {
    let input =
        EncoderInput::Patches { image_size: SIDE, patch_size: 8, bias: true, class_token: true };
    let mut spec = encoder(input);
    let axes = RotaryAxes::Grid { extent: 4.0 };
    let (theta, pairing) = (100.0, Pairing::Neighbours);
    spec.attention.rotary = Some(Rotary { theta, pairing, axes });
    let (spec, contract) = (ImageSpec::Transformer(spec), ImageContract::clip(SIDE));
    ImageTower::build(&spec, &contract, &NameMap::default(), Seed(2)).unwrap()
}

/// A text of 6 to 20 tokens of which the seed leaves some out.
fn text(row: usize, seed: Seed) -> Vec<u32> {
    let (mut own, mut rng) = (Seed(row as u64).rng(), seed.rng());
    let ids: Vec<u32> = (0..own.random_range(6..20)).map(|_| own.random_range(0..50)).collect();
    let last = ids.len() - 1;
    let kept = |(at, id)| (at == 0 || at == last || rng.random::<f32>() > 0.3).then_some(id);
    ids.into_iter().enumerate().filter_map(kept).collect()
}

/// A picture of which the seed leaves half of the patches out.
fn picture(row: usize, seed: Seed) -> Pixels {
    let mut rng = Seed(100 + row as u64).rng();
    let data = (0..SIDE * SIDE * 3).map(|_| rng.random()).collect();
    PatchDropout::new(0.5, PATCHES).apply(Pixels::new(SIDE, SIDE, data).unwrap(), seed)
}

fn scalar(init: f32) -> ScalarConfig {
    ScalarConfig { init, min: -20.0, max: 5.0, learned: true }
}

/// The losses; every batch has hard negatives.
fn losses() -> Vec<LossConfig> {
    let negatives = Negatives::All;
    let reduction = Reduction::SymmetricSum;
    let info_nce = || LossConfig::InfoNce { reduction, negatives, log_scale: scalar(2.0) };
    let sigmoid = || LossConfig::Sigmoid { log_scale: scalar(2.0), bias: scalar(-3.0), negatives };
    let dims = || [(8, 1.0), (3, 0.5)].map(|(dim, weight)| MatryoshkaDim { dim, weight }).to_vec();
    vec![
        info_nce(),
        sigmoid(),
        LossConfig::Joint { log_scale: scalar(2.0) },
        LossConfig::Matryoshka { dims: dims(), loss: Box::new(info_nce()) },
        LossConfig::Matryoshka { dims: dims(), loss: Box::new(sigmoid()) },
    ]
}

/// A teacher's vectors: one pair of ten is above 0.8.
fn vectors(n: usize, seed: u64) -> Embeddings {
    let mut rng = Seed(seed).stream("teacher").rng();
    let values = (0..n * 3).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut vectors = Embeddings::new(3, values).unwrap();
    vectors.normalize();
    vectors
}

/// A tower, perhaps with adapters that have already learned.
struct Learner<T> {
    tower: T,
    lora: Option<Lora>,
}

impl<T: Tower> Learner<T> {
    fn new(mut tower: T, adapted: bool, checkpoints: bool) -> Self {
        assert!(tower.checkpoint_layers(checkpoints));
        if !adapted {
            return Self { tower, lora: None };
        }
        tower.parameters_mut().iter_mut().for_each(|p| p.frozen = true);
        let target = |suffix: &str, blocks, adapted: &[usize]| LoraTarget {
            prefix: String::new(),
            suffix: suffix.to_owned(),
            blocks,
            adapted: adapted.to_vec(),
        };
        let targets =
            vec![target("attention.qkv.weight", 3, &[0, 2]), target("mlp.up.weight", 1, &[])];
        let config = LoraConfig { rank: 2, alpha: 4.0, targets };
        let mut lora = Lora::new(&config, "lora", tower.parameters(), Seed(3)).unwrap();
        lora.unfreeze(tower.parameters_mut());
        for adapter in lora.adapters_mut() {
            let mut rng = Seed(4).stream(&adapter.name).rng();
            adapter.value.iter_mut().for_each(|x| *x += 0.1 * rng.random_range(-1.0..1.0));
        }
        lora.merge_into(tower.parameters_mut());
        Self { tower, lora: Some(lora) }
    }

    /// Gradients of what is trained.
    fn trained(&self, of_tower: Gradients) -> Gradients {
        let Some(lora) = &self.lora else { return of_tower };
        let mut gradients = Gradients::zeros(lora.adapters());
        lora.project(&of_tower, &mut gradients);
        gradients
    }
}

/// Loss, its numbers' gradients, and those of both towers.
type Stepped = (f64, Vec<f64>, Gradients, Gradients);

fn run(loss: &dyn Loss, adapted: bool, checkpoints: bool, chunking: Chunking) -> Stepped {
    let text_side = Learner::new(text_tower(), adapted, checkpoints);
    let image_side = Learner::new(image_tower(), adapted, checkpoints);
    let seed = Seed(7);
    let texts: Vec<_> = (0..B).map(|i| text(i, seed.at(i as u64))).collect();
    let of_picture = |i: usize| picture(i, seed.stream("picture").at(i as u64));
    let pictures: Vec<_> = (0..B * (1 + M)).map(of_picture).collect();
    let (texts, pictures): (Vec<_>, Vec<_>) = (texts.iter().collect(), pictures.iter().collect());
    let mut d_text = Gradients::zeros(text_side.tower.parameters());
    let mut d_image = Gradients::zeros(image_side.tower.parameters());
    let scalars: Vec<f32> = loss.scalars().iter().map(|scalar| scalar.init).collect();
    let outcome = step(
        &mut Sink { tower: &text_side.tower, chunking, gradients: &mut d_text },
        &mut Sink { tower: &image_side.tower, chunking, gradients: &mut d_image },
        &Task {
            queries: Side::Texts(&texts),
            documents: Side::Images(&pictures),
            false_negatives: &FalseNegatives::none().with_teacher(
                TeacherVectors { queries: vectors(B, 1), documents: vectors(B * (1 + M), 2) },
                TeacherThreshold::Above(0.8),
            ),
            labels: Labels::None,
            loss,
            scalars: &scalars,
            weight: 0.7,
        },
    );
    let outcome = outcome.unwrap();
    let (d_text, d_image) = (text_side.trained(d_text), image_side.trained(d_image));
    (outcome.loss, outcome.d_scalars, d_text, d_image)
}

/// 1e-5 of the largest value of each tensor. Where a tensor has none but rounding (the keys' bias moves all
/// scores of a query alike), of the largest of all.
#[track_caller]
fn check_near(found: &Gradients, expected: &Gradients, what: &str) {
    let largest = |x: &[f32]| x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let overall = expected.iter().map(largest).fold(0.0, f32::max);
    assert!(overall > 1e-3, "{what}: {overall}");
    for (p, (found, expected)) in found.iter().zip(expected.iter()).enumerate() {
        let scale = largest(expected).max(1e-2 * overall);
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 1e-5 * scale, "{what}, tensor {p}: {f} for {e} of {scale}");
        }
    }
}

#[test]
fn chunks_agree_with_the_whole_batch_whatever_is_asked_for() {
    let whole = Chunking { size: 100, held: 100 };
    for config in losses() {
        let loss = config.build();
        for adapted in [false, true] {
            let (value, d_scalars, d_text, d_image) = run(loss.as_ref(), adapted, false, whole);
            for (size, held) in [(1, 0), (4, 0), (4, 9), (10, 100)] {
                let chunking = Chunking { size, held };
                let what = format!("{config:?}, adapted {adapted}, {chunking:?}");
                let chunked = run(loss.as_ref(), adapted, false, chunking);
                assert!((chunked.0 - value).abs() <= 1e-6 * value.abs(), "{what}");
                for (found, expected) in chunked.1.iter().zip(&d_scalars) {
                    assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1e-3), "{what}");
                }
                check_near(&chunked.2, &d_text, &what);
                check_near(&chunked.3, &d_image, &what);
                let twice = run(loss.as_ref(), adapted, true, chunking);
                assert_eq!(chunked, twice, "{what}: layers computed twice");
            }
        }
    }
}

/// Rows whose tokens and patches are left out anew in every step.
struct Shop;

impl Source for Shop {
    type Text = Vec<u32>;
    type Image = Pixels;
    type Drawn = Vec<usize>;
    type Error = std::convert::Infallible;

    fn len(&self) -> usize {
        40
    }

    fn fingerprint(&self) -> &'static str {
        "a shop"
    }

    fn draw(&self, rows: Rows) -> Result<Vec<usize>, Self::Error> {
        Ok(rows.numbers)
    }

    fn load(&self, rows: Vec<usize>, seed: Seed) -> Result<BatchOf<Self>, Self::Error> {
        let of = |row: &usize| seed.at(*row as u64);
        Ok(TaskBatch {
            items: rows.iter().map(ToString::to_string).collect(),
            queries: Inputs::Texts(rows.iter().map(|row| text(*row, of(row))).collect()),
            documents: Inputs::Images(rows.iter().map(|row| picture(*row, of(row))).collect()),
            aspects: Vec::<Ids>::new(),
            labels: OwnedLabels::None,
            teacher: None,
            rejects: Vec::new(),
        })
    }
}

/// Stops after a step.
struct StopAfter(u64, Stop);

impl Observer<TextTower, ImageTower> for StopAfter {
    fn on_step(&mut self, log: &StepLog) {
        if log.step == self.0 {
            self.1.request();
        }
    }
}

fn config(checkpoint_layers: bool) -> TrainConfig {
    let tower = TowerConfig { checkpoint_layers, ..TowerConfig::default() };
    let chunking = Chunking { size: 3, held: 4 };
    let task = TaskConfig {
        name: "pairs".to_owned(),
        batch: 8,
        weight: 1.0,
        loss: losses().remove(0),
        mixing: Mixing::default(),
        teacher: None,
    };
    TrainConfig {
        text: tower.clone(),
        image: tower,
        chunks: ChunkConfig { text: chunking, image: chunking },
        ..TrainConfig::new(4, 1e-2, vec![task])
    }
}

fn values(parameters: &[Parameter]) -> Vec<Vec<f32>> {
    parameters.iter().map(|p| p.value.to_vec()).collect()
}

/// Weights after 4 steps, stopped after `n` and gone on with by another configuration.
fn trained(first: &TrainConfig, n: u64, then: &TrainConfig) -> [Vec<Vec<f32>>; 2] {
    let (mut text, mut image) = (text_tower(), image_tower());
    let folder = tempfile::tempdir().unwrap();
    let sources = [vec![Weighted { source: &Shop, weight: 1.0 }]];
    let stop = Stop::default();
    let mut trainer =
        Trainer::start(first.clone(), &mut text, &mut image, &sources, folder.path()).unwrap();
    trainer.run(&mut StopAfter(n, stop.clone()), &stop).unwrap();
    drop(trainer);
    let (mut text, mut image) = (text_tower(), image_tower());
    let mut trainer =
        Trainer::resume(then.clone(), &mut text, &mut image, &sources, folder.path()).unwrap();
    trainer.run(&mut StopAfter(0, Stop::default()), &Stop::default()).unwrap();
    drop(trainer);
    [values(text.parameters()), values(image.parameters())]
}

#[test]
fn a_run_may_begin_to_compute_layers_twice_and_ends_the_same() {
    let plain = trained(&config(false), 2, &config(false));
    assert_eq!(plain, trained(&config(true), 4, &config(true)));
    assert_eq!(plain, trained(&config(false), 1, &config(true)));
}
