//! Chunked = whole, frozen towers, and who is to blame for a bad input.

use conjoin_core::Seed;

use super::*;
use crate::{
    losses::{InfoNce, LossScalar, Reduction},
    testing::{SmallTower, assert_close, random},
};

const B: usize = 11;

fn inputs(n_in: usize, seed: u64) -> Vec<Vec<f32>> {
    (0..B as u64).map(|i| random(n_in, Seed(seed).at(i))).collect()
}

fn run(
    text: &SmallTower,
    image: &SmallTower,
    chunks: (usize, usize),
) -> Result<(StepOutcome, Gradients, Gradients), StepError> {
    run_holding(text, image, chunks, B)
}

fn run_holding(
    text: &SmallTower,
    image: &SmallTower,
    chunks: (usize, usize),
    held: usize,
) -> Result<(StepOutcome, Gradients, Gradients), StepError> {
    let (texts, images) = (inputs(5, 1), inputs(7, 2));
    let texts: Vec<_> = texts.iter().collect();
    let images: Vec<_> = images.iter().collect();
    let mut d_text = Gradients::zeros(text.parameters());
    let mut d_image = Gradients::zeros(image.parameters());
    let scalar = LossScalar { name: "log_scale", init: 2.0, min: 0.0, max: 5.0, learned: true };
    let loss = InfoNce::new(Reduction::SymmetricMean, scalar);
    let outcome = step(
        &mut Sink {
            tower: text,
            chunking: Chunking { size: chunks.0, held },
            gradients: &mut d_text,
        },
        &mut Sink {
            tower: image,
            chunking: Chunking { size: chunks.1, held },
            gradients: &mut d_image,
        },
        &Task {
            queries: Side::Texts(&texts),
            documents: Side::Images(&images),
            false_negatives: &FalseNegatives::none(),
            labels: Labels::None,
            loss: &loss,
            scalars: &[2.0],
            weight: 1.0,
        },
    )?;
    Ok((outcome, d_text, d_image))
}

fn towers() -> (SmallTower, SmallTower) {
    (SmallTower::new("text", 5, 6, Seed(1)), SmallTower::new("image", 7, 6, Seed(2)))
}

#[test]
fn chunked_agrees_with_whole_also_with_an_uneven_last_chunk() {
    let (text, image) = towers();
    let (whole, d_text, d_image) = run(&text, &image, (B, B)).unwrap();
    assert!(d_text.get(0).iter().any(|g| g.abs() > 1e-3));
    let cases = [(1, 1), (4, 3), (B, 5), (10, 100)];
    // Nothing held: all chunks twice; 7: the first chunks once; B: all once.
    let cases = cases.into_iter().flat_map(|chunks| [0, 7, B].map(|held| (chunks, held)));
    for (chunks, held) in cases {
        let (outcome, chunked_text, chunked_image) =
            run_holding(&text, &image, chunks, held).unwrap();
        assert!((outcome.loss - whole.loss).abs() < 1e-6);
        for (found, expected) in chunked_text.iter().zip(d_text.iter()) {
            assert_close(found, expected, 1e-5);
        }
        for (found, expected) in chunked_image.iter().zip(d_image.iter()) {
            assert_close(found, expected, 1e-5);
        }
    }
}

#[test]
fn grad_of_the_whole_step_agrees_with_finite_differences() {
    let (text, image) = towers();
    let (_, d_text, _) = run(&text, &image, (4, 4)).unwrap();
    for i in [0, 7, 29] {
        let at = |by: f32| {
            let mut moved = text.clone();
            moved.parameters_mut()[0].value[i] += by;
            run(&moved, &image, (4, 4)).unwrap().0.loss
        };
        let expected = (at(0.01) - at(-0.01)) / 0.02;
        let found = f64::from(d_text.get(0)[i]);
        assert!((found - expected).abs() < 1e-3, "[{i}] {found} {expected}");
    }
}

#[test]
fn a_frozen_tower_gets_nothing_and_changes_nothing_for_the_other() {
    let (text, image) = towers();
    let (_, d_text, _) = run(&text, &image, (4, 4)).unwrap();
    let (_, beside_frozen, d_frozen) = run(&text, &image.freeze(), (4, 4)).unwrap();
    assert_eq!(d_text, beside_frozen);
    assert!(d_frozen.iter().all(<[f32]>::is_empty));
}

#[test]
fn a_refused_input_names_its_chunk() {
    let text = SmallTower::new("text", 6, 6, Seed(1));
    let error = run(&text, &towers().1, (4, 4)).unwrap_err();
    assert_eq!(error.to_string(), "cannot embed the chunk that starts at row 0 of the batch");
    assert_eq!(error.source.to_string(), "input 0 has size 5, this tower takes 6");
}

/// Every loss with what its batches need: hard negatives, grades, a teacher's scores, false negatives.
fn every_loss() -> Vec<crate::LossConfig> {
    use crate::{LossConfig as L, MatryoshkaDim, Negatives, ScalarConfig, Temperatures};
    let log_scale = || ScalarConfig { init: 2.0, min: -5.0, max: 5.0, learned: true };
    let bias = || ScalarConfig { init: -3.0, min: -20.0, max: 5.0, learned: true };
    let info_nce =
        |reduction, negatives| L::InfoNce { reduction, negatives, log_scale: log_scale() };
    let reduction = Reduction::SymmetricSum;
    let dims = vec![MatryoshkaDim { dim: 6, weight: 1.0 }, MatryoshkaDim { dim: 3, weight: 0.5 }];
    let sigmoid = || L::Sigmoid { log_scale: log_scale(), bias: bias(), negatives: Negatives::Own };
    vec![
        info_nce(reduction, Negatives::All),
        info_nce(Reduction::SymmetricMean, Negatives::Own),
        info_nce(Reduction::OneWay, Negatives::All),
        L::Joint { log_scale: log_scale() },
        sigmoid(),
        L::WeightedInfoNce { reduction, negatives: Negatives::All, log_scale: log_scale() },
        L::MarginMse { log_scale: log_scale() },
        L::Kl { temperatures: Temperatures { student: 0.3, teacher: 0.7 } },
        L::Cosent { log_scale: log_scale() },
        L::Cosine {},
        L::Matryoshka { dims: dims.clone(), loss: Box::new(info_nce(reduction, Negatives::All)) },
        L::Matryoshka { dims, loss: Box::new(sigmoid()) },
    ]
}

/// Queries of one tower and, if `same`, documents of it too.
fn run_loss(
    loss: &dyn Loss,
    (text, image): (&SmallTower, &SmallTower),
    chunking: Chunking,
    same: bool,
) -> (StepOutcome, Gradients, Gradients) {
    const M: usize = 2;
    let queries = inputs(5, 1);
    let (mut documents, width) = (Vec::new(), if same { 5 } else { 7 });
    for seed in 2..3 + M as u64 {
        documents.extend(inputs(width, seed));
    }
    let (queries, documents): (Vec<_>, Vec<_>) =
        (queries.iter().collect(), documents.iter().collect());
    let (mut d_text, mut d_image) =
        (Gradients::zeros(text.parameters()), Gradients::zeros(image.parameters()));
    let grades: Vec<f32> = (0..B).map(|i| (i % 4) as f32 / 3.0).collect();
    let scores: Vec<f32> = random(B * (1 + M), Seed(9));
    let labels = match loss.needs() {
        crate::LabelKind::None => Labels::None,
        crate::LabelKind::Grades => Labels::Grades(&grades),
        crate::LabelKind::TeacherScores => Labels::TeacherScores(&scores),
    };
    let ids: Vec<u64> = (0..B as u64).map(|i| i % 9).collect();
    let scalars: Vec<f32> = loss.scalars().iter().map(|scalar| scalar.init).collect();
    let task = Task {
        queries: Side::Texts(&queries),
        documents: if same { Side::Texts(&documents) } else { Side::Images(&documents) },
        false_negatives: &FalseNegatives::by_ids(&[&ids]),
        labels,
        loss,
        scalars: &scalars,
        weight: 0.7,
    };
    let outcome = step(
        &mut Sink { tower: text, chunking, gradients: &mut d_text },
        &mut Sink { tower: image, chunking, gradients: &mut d_image },
        &task,
    );
    (outcome.unwrap(), d_text, d_image)
}

#[test]
fn chunked_agrees_with_whole_for_every_loss() {
    let (text, image) = towers();
    for config in every_loss() {
        let loss = config.build();
        for same in [false, true] {
            let run = |size, held| {
                run_loss(loss.as_ref(), (&text, &image), Chunking { size, held }, same)
            };
            let (whole, d_text, d_image) = run(100, 100);
            assert!(d_text.get(0).iter().any(|g| g.abs() > 1e-5), "{config:?}");
            assert_eq!(same, d_image.get(0).iter().all(|g| *g == 0.0), "{config:?}");
            for (size, held) in [(1, 0), (4, 0), (4, 9), (10, 5)] {
                let (chunked, found_text, found_image) = run(size, held);
                assert_eq!(chunked.loss, whole.loss, "{config:?}");
                assert_eq!(chunked.d_scalars, whole.d_scalars, "{config:?}");
                for (found, expected) in found_text.iter().zip(d_text.iter()) {
                    assert_close(found, expected, 1e-5);
                }
                for (found, expected) in found_image.iter().zip(d_image.iter()) {
                    assert_close(found, expected, 1e-5);
                }
            }
        }
    }
}
