//! Times the loss and the optimiser on this machine: `cargo run --release --example bench_train`.
//!
//! In:  nothing. Out: lines of JSON, one per measurement (the fastest of several runs), on stdout.

use std::{io::Write, time::Instant};

use conjoin_core::{Embeddings, Gradients, Parameter, Seed};
use conjoin_train::{
    AdamW, AdamWConfig, Batch, FalseNegatives, InfoNce, Labels, Loss, LossScalar, Reduction,
    Sampler, SamplerConfig, Sigmoid, TeacherThreshold, TeacherVectors, grad_norm,
};
use rand::Rng as _;

const E: usize = 256;

fn unit_rows(n: usize, seed: Seed) -> Embeddings {
    let mut rng = seed.rng();
    let values = (0..n * E).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut rows = Embeddings::new(E, values).expect("whole rows");
    rows.normalize();
    rows
}

/// The fastest of `n` runs: other work on the machine can only slow one down.
fn fastest_seconds(n: usize, mut run: impl FnMut()) -> f64 {
    let seconds = (0..n).map(|_| {
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

fn scalar(name: &'static str, init: f32) -> LossScalar {
    LossScalar { name, init, min: f32::MIN, max: f32::MAX, learned: true }
}

fn time_losses(out: &mut impl Write) -> std::io::Result<()> {
    let info_nce = InfoNce::new(Reduction::SymmetricMean, scalar("log_scale", 2.659));
    let sigmoid = Sigmoid::new(scalar("log_scale", 2.303), scalar("bias", -10.0));
    let losses: [(&str, &dyn Loss, &[f32]); 2] =
        [("info_nce", &info_nce, &[2.659]), ("sigmoid", &sigmoid, &[2.303, -10.0])];
    for (name, loss, scalars) in losses {
        for b in [256, 1_024, 4_096] {
            let (q, d) = (unit_rows(b, Seed(1)), unit_rows(b, Seed(2)));
            let ids: Vec<u64> = (0..b as u64).map(|i| if i % 20 == 0 { 0 } else { i }).collect();
            let teacher =
                TeacherVectors { queries: unit_rows(b, Seed(3)), documents: unit_rows(b, Seed(4)) };
            let masks = [
                ("none", FalseNegatives::none()),
                ("5 %", FalseNegatives::by_ids(&[&ids])),
                (
                    "teacher",
                    FalseNegatives::none().with_teacher(teacher, TeacherThreshold::Above(0.9)),
                ),
            ];
            for (masked, same) in &masks {
                let labels = Labels::None;
                let batch = Batch { queries: &q, documents: &d, false_negatives: same, labels };
                let ms = 1e3 * fastest_seconds(15, || drop(loss.evaluate(batch, scalars)));
                writeln!(
                    out,
                    "{{\"loss\": \"{name}\", \"b\": {b}, \"e\": {E}, \"repeated\": \"{masked}\", \
                     \"ms\": {ms:.2}}}"
                )?;
            }
        }
    }
    Ok(())
}

fn time_optimizer(out: &mut impl Write) -> std::io::Result<()> {
    let n = 25_000_000;
    let parameter = Parameter {
        name: "w".to_owned(),
        shape: vec![n],
        value: vec![0.1; n].into(),
        decay: true,
        frozen: false,
    };
    let mut parameters = vec![parameter];
    let mut gradients = Gradients::zeros(&parameters);
    gradients.iter_mut().for_each(|g| g.fill(0.01));
    let config = AdamWConfig {
        betas: (0.9, 0.98),
        eps: 1e-6,
        weight_decay: 0.1,
        lr_multipliers: Vec::new(),
    };
    let mut optimizer = AdamW::new(config, &parameters);
    let step = fastest_seconds(15, || optimizer.step(&mut parameters, &gradients, 1e-3, 1.0));
    let norm = fastest_seconds(15, || assert!(grad_norm(&[&gradients]) > 0.0));
    // A step reads four arrays and writes three; the norm reads one.
    let (step_gb, norm_gb) = (28e-9 * n as f64 / step, 4e-9 * n as f64 / norm);
    writeln!(
        out,
        "{{\"adamw_parameters\": {n}, \"ms\": {:.1}, \"gb_per_s\": {step_gb:.1}, \
         \"norm_ms\": {:.1}, \"norm_gb_per_s\": {norm_gb:.1}}}",
        1e3 * step,
        1e3 * norm
    )
}

fn time_sampler(out: &mut impl Write) -> std::io::Result<()> {
    let n = 1_000_000;
    let images: Vec<u64> = (0..n as u64).map(|i| i / 5).collect();
    let config = SamplerConfig { batch: 256, drop_last: true };
    for (arranged, ids) in [(false, Vec::new()), (true, images)] {
        let sampler = Sampler::new(n, config, Seed(1), &[&ids]).expect("many batches");
        let mut epoch = 0;
        let ms = 1e3
            * fastest_seconds(3, || {
                epoch += 1;
                assert_eq!(sampler.batch(epoch * sampler.n_batches() as u64).len(), 256);
            });
        writeln!(out, "{{\"epoch_of_pairs\": {n}, \"arranged\": {arranged}, \"ms\": {ms:.0}}}")?;
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{\"threads\": {}}}", rayon::current_num_threads())?;
    time_losses(&mut out)?;
    time_sampler(&mut out)?;
    time_optimizer(&mut out)
}
