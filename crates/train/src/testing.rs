//! A small real tower and pairs for the tests.
//!
//! In:  vectors of numbers. Out: `normalise(tanh(W x + b))` with its exact backward, checked below
//!      by finite differences.

use std::{collections::BTreeSet, convert::Infallible};

use conjoin_core::{Embeddings, Gradients, Parameter, Seed, Tower, TowerError};
use rand::{Rng as _, seq::SliceRandom as _};

use crate::{
    adamw::AdamWConfig,
    config::{
        CheckpointConfig, ChunkConfig, Chunking, Keep, LossConfig, PrefetchConfig, ScalarConfig,
        TaskConfig, TrainConfig,
    },
    draws::Mixing,
    losses::{LabelKind, Negatives, Reduction, TeacherVectors},
    schedule::{Decay, ScheduleConfig},
    selection::LrMultiplier,
    source::{Ids, Inputs, OwnedLabels, Reject, Rows, Source, TaskBatch},
    trained::TowerConfig,
};

pub(crate) fn random(n: usize, seed: Seed) -> Vec<f32> {
    let mut rng = seed.rng();
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub(crate) fn unit_rows(n: usize, width: usize, seed: Seed) -> Embeddings {
    let mut rows = Embeddings::new(width, random(n * width, seed)).unwrap();
    rows.normalize();
    rows
}

#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-12_f32, |m, x| m.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs() / largest;
        assert!(off <= tolerance, "[{i}] {found}, expected {expected}, off by {off:e}");
    }
}

/// `normalise(tanh(W x + b))`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SmallTower {
    n_in: usize,
    width: usize,
    parameters: Vec<Parameter>,
}

pub(crate) struct Row {
    input: Vec<f32>,
    activation: Vec<f32>,
}

impl SmallTower {
    pub(crate) fn new(name: &str, n_in: usize, width: usize, seed: Seed) -> Self {
        let parameter = |part: &str, shape: Vec<usize>, decay| Parameter {
            name: format!("{name}.{part}"),
            value: random(shape.iter().product(), seed.stream(name).stream(part)).into(),
            shape,
            decay,
            frozen: false,
        };
        let parameters = vec![
            parameter("weight", vec![width, n_in], true),
            parameter("bias", vec![width], false),
            Parameter { frozen: true, ..parameter("shift", vec![n_in], false) },
        ];
        Self { n_in, width, parameters }
    }

    pub(crate) fn freeze(mut self) -> Self {
        self.parameters.iter_mut().for_each(|p| p.frozen = true);
        self
    }

    fn forward(&self, index: usize, input: &[f32]) -> Result<Row, TowerError> {
        if input.len() != self.n_in {
            let (found, expected) = (input.len().to_string(), self.n_in.to_string());
            return Err(TowerError::InputSize { index, found, expected });
        }
        let [weight, bias, shift] = [0, 1, 2].map(|i| &*self.parameters[i].value);
        let input: Vec<f32> = input.iter().zip(shift).map(|(x, s)| x + s).collect();
        let activation = weight.chunks_exact(self.n_in).zip(bias).map(|(weights, bias)| {
            (weights.iter().zip(&input).map(|(w, x)| w * x).sum::<f32>() + bias).tanh()
        });
        let activation = activation.collect();
        Ok(Row { input, activation })
    }

    fn forward_all(&self, inputs: &[&Vec<f32>]) -> Result<(Embeddings, Vec<Row>), TowerError> {
        let rows: Result<Vec<Row>, TowerError> =
            inputs.iter().enumerate().map(|(i, input)| self.forward(i, input)).collect();
        let rows = rows?;
        let values = rows.iter().flat_map(|row| row.activation.clone()).collect();
        let mut embeddings = Embeddings::new(self.width, values).unwrap();
        embeddings.normalize();
        Ok((embeddings, rows))
    }
}

impl Tower for SmallTower {
    type Input = Vec<f32>;
    type Recording = Vec<Row>;

    fn width(&self) -> usize {
        self.width
    }

    fn embed(&self, inputs: &[&Vec<f32>]) -> Result<Embeddings, TowerError> {
        Ok(self.forward_all(inputs)?.0)
    }

    fn record(&self, inputs: &[&Vec<f32>]) -> Result<(Embeddings, Vec<Row>), TowerError> {
        self.forward_all(inputs)
    }

    fn backward(&self, recording: Vec<Row>, gradient: &Embeddings, into: &mut Gradients) {
        for (row, g) in recording.iter().zip(gradient.rows()) {
            let norm = row.activation.iter().map(|a| a * a).sum::<f32>().sqrt();
            let along = row.activation.iter().zip(g).map(|(a, g)| a * g).sum::<f32>() / norm;
            let d_pre = row.activation.iter().zip(g).map(|(a, g)| {
                let d_activation = (g - along * a / norm) / norm;
                d_activation * (1.0 - a * a)
            });
            let d_pre: Vec<f32> = d_pre.collect();
            if let Some(d_weight) = into.get_mut(0) {
                for (d_weights, d) in d_weight.chunks_exact_mut(self.n_in).zip(&d_pre) {
                    d_weights.iter_mut().zip(&row.input).for_each(|(dw, x)| *dw += d * x);
                }
            }
            if let Some(d_bias) = into.get_mut(1) {
                d_bias.iter_mut().zip(&d_pre).for_each(|(db, d)| *db += d);
            }
        }
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }
}

/// Pairs whose text and image are two noisy views of one hidden vector.
pub(crate) struct SmallPairs {
    texts: Vec<Vec<f32>>,
    images: Vec<Vec<f32>>,
    ids: Vec<u64>,
    pub(crate) fingerprint: String,
    /// Rows that cannot be read.
    pub(crate) unreadable: BTreeSet<usize>,
    /// What every row has besides its text and its picture.
    pub(crate) n_negatives: usize,
    pub(crate) labels: LabelKind,
    /// Whether a teacher, who reads the texts, has looked at it.
    pub(crate) taught: bool,
    /// Whether it gives its rows in an order of its own.
    pub(crate) streamed: bool,
}

pub(crate) const TEXT_WIDTH: usize = 12;
pub(crate) const IMAGE_WIDTH: usize = 20;

impl SmallPairs {
    pub(crate) fn new(n: usize) -> Self {
        let seed = Seed(11).stream("pairs");
        let (to_text, to_image) =
            (random(8 * TEXT_WIDTH, seed), random(8 * IMAGE_WIDTH, seed.at(1)));
        let view = |hidden: &[f32], map: &[f32]| -> Vec<f32> {
            let rows = map.chunks_exact(8);
            rows.map(|row| row.iter().zip(hidden).map(|(m, h)| m * h).sum()).collect()
        };
        let hidden: Vec<Vec<f32>> =
            (0..n).map(|i| random(8, seed.stream("hidden").at(i as u64))).collect();
        Self {
            texts: hidden.iter().map(|h| view(h, &to_text)).collect(),
            images: hidden.iter().map(|h| view(h, &to_image)).collect(),
            // Every fourth pair repeats the text of the one before.
            ids: (0..n as u64).map(|i| if i % 4 == 3 { i - 1 } else { i }).collect(),
            fingerprint: "small-pairs".to_owned(),
            unreadable: BTreeSet::new(),
            n_negatives: 0,
            labels: LabelKind::None,
            taught: false,
            streamed: false,
        }
    }

    pub(crate) fn image_mut(&mut self, row: usize) -> &mut Vec<f32> {
        &mut self.images[row]
    }

    /// What a teacher finds of rows: their texts' first numbers.
    fn teacher_vectors(&self, rows: &[usize]) -> TeacherVectors {
        let of = |rows: &[usize]| {
            let values = rows.iter().flat_map(|row| self.texts[*row][..4].to_vec()).collect();
            let mut vectors = Embeddings::new(4, values).unwrap();
            vectors.normalize();
            vectors
        };
        let negatives = rows
            .iter()
            .flat_map(|row| (1..=self.n_negatives).map(move |by| (row + by) % self.len()));
        let documents: Vec<usize> = rows.iter().copied().chain(negatives).collect();
        TeacherVectors { queries: of(rows), documents: of(&documents) }
    }
}

impl Source for SmallPairs {
    type Text = Vec<f32>;
    type Image = Vec<f32>;
    type Drawn = Vec<usize>;
    type Error = Infallible;

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn labels(&self) -> LabelKind {
        self.labels
    }

    fn n_negatives(&self) -> usize {
        self.n_negatives
    }

    fn has_teacher(&self) -> bool {
        self.taught
    }

    fn aspects(&self) -> Vec<&[u64]> {
        vec![&self.ids]
    }

    fn is_streamed(&self) -> bool {
        self.streamed
    }

    fn draw(&self, rows: Rows) -> Result<Vec<usize>, Infallible> {
        if !self.streamed {
            return Ok(rows.numbers);
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut rows.order.rng());
        Ok(rows.numbers.into_iter().map(|place| order[place]).collect())
    }

    fn load(
        &self,
        rows: Vec<usize>,
        seed: Seed,
    ) -> Result<TaskBatch<Vec<f32>, Vec<f32>>, Infallible> {
        let (bad, good): (Vec<usize>, Vec<usize>) =
            rows.iter().partition(|row| self.unreadable.contains(row));
        let reject = |row: &usize| Reject {
            item: format!("pair-{row}"),
            reason: "it is unreadable".to_owned(),
        };
        // Augmentation: a little noise that depends on the step and the row.
        let noisy = |row: usize| -> Vec<f32> {
            let noise = random(IMAGE_WIDTH, seed.at(row as u64));
            self.images[row].iter().zip(noise).map(|(x, n)| x + 0.01 * n).collect()
        };
        let mut documents: Vec<Vec<f32>> = good.iter().map(|row| noisy(*row)).collect();
        for row in &good {
            // Hard negatives: the pictures of the rows that follow.
            let others =
                (1..=self.n_negatives).map(|by| self.images[(row + by) % self.len()].clone());
            documents.extend(others);
        }
        let ids: Vec<u64> = good.iter().map(|row| self.ids[*row]).collect();
        let labels = match self.labels {
            LabelKind::None => OwnedLabels::None,
            LabelKind::Grades => {
                OwnedLabels::Grades(good.iter().map(|row| (*row % 3) as f32).collect())
            }
            LabelKind::TeacherScores => {
                let own = 1.0 + self.n_negatives as f32;
                let row = (0..=self.n_negatives).map(|k| own - k as f32);
                OwnedLabels::TeacherScores(good.iter().flat_map(|_| row.clone()).collect())
            }
        };
        Ok(TaskBatch {
            items: good.iter().map(|row| format!("pair-{row}")).collect(),
            queries: Inputs::Texts(good.iter().map(|row| self.texts[*row].clone()).collect()),
            documents: Inputs::Images(documents),
            aspects: vec![Ids { queries: ids, documents: Vec::new() }],
            labels,
            teacher: self.taught.then(|| self.teacher_vectors(&good)),
            rejects: bad.iter().map(reject).collect(),
        })
    }
}

pub(crate) fn towers() -> (SmallTower, SmallTower) {
    let seed = Seed(5);
    (SmallTower::new("text", TEXT_WIDTH, 8, seed), SmallTower::new("image", IMAGE_WIDTH, 8, seed))
}

pub(crate) fn info_nce() -> LossConfig {
    LossConfig::InfoNce {
        reduction: Reduction::SymmetricMean,
        negatives: Negatives::All,
        log_scale: ScalarConfig::clip_log_scale(),
    }
}

pub(crate) fn task(name: &str, batch: usize, loss: LossConfig) -> TaskConfig {
    let (name, mixing) = (name.to_owned(), Mixing::Homogeneous);
    TaskConfig { name, batch, weight: 1.0, loss, mixing, teacher: None }
}

pub(crate) fn config() -> TrainConfig {
    TrainConfig {
        seed: Seed(3),
        steps: 20,
        tasks: vec![task("pairs", 8, info_nce())],
        text: TowerConfig::default(),
        image: TowerConfig::default(),
        chunks: ChunkConfig {
            text: Chunking { size: 3, held: 6 },
            image: Chunking { size: 8, held: 0 },
        },
        schedule: ScheduleConfig {
            peak_lr: 0.02,
            warmup_steps: Some(4),
            decay: Decay::Cosine,
            floor: 0.1,
        },
        optimizer: AdamWConfig {
            betas: (0.9, 0.98),
            eps: 1e-6,
            weight_decay: 0.01,
            lr_multipliers: vec![LrMultiplier { prefix: "image.".to_owned(), factor: 0.5 }],
        },
        clip_norm: Some(1.0),
        average: None,
        divergence: None,
        plateau: None,
        early_stop: None,
        keep: Keep::Last,
        checkpoint: CheckpointConfig { every_steps: None, every_seconds: None },
        evaluate_every: None,
        prefetch: PrefetchConfig { threads: 2, ahead: 3 },
    }
}

#[test]
fn grad_small_tower_agrees_with_finite_differences() {
    let tower = SmallTower::new("t", 3, 4, Seed(1));
    let inputs = [vec![0.3, -0.2, 0.9], vec![-0.5, 0.4, 0.1]];
    let inputs: Vec<&Vec<f32>> = inputs.iter().collect();
    let slope = unit_rows(2, 4, Seed(2));
    let value = |tower: &SmallTower| -> f32 {
        let embeddings = tower.embed(&inputs).unwrap();
        embeddings.values().iter().zip(slope.values()).map(|(e, s)| e * s).sum()
    };
    let mut gradients = Gradients::zeros(tower.parameters());
    let (_, recording) = tower.record(&inputs).unwrap();
    tower.backward(recording, &slope, &mut gradients);
    for (p, gradient) in gradients.iter().enumerate().take(2) {
        for (i, found) in gradient.iter().enumerate() {
            let at = |by: f32| {
                let mut moved = tower.clone();
                moved.parameters[p].value[i] += by;
                value(&moved)
            };
            let expected = (at(0.005) - at(-0.005)) / 0.01;
            assert!((found - expected).abs() < 1e-3, "{p} {i}: {found} {expected}");
        }
    }
}
