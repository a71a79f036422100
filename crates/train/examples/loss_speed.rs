//! Times InfoNCE of one large batch, forward and gradient, and tells the memory it took.
//!
//! In:  `B E M`, all optional: queries (32,768), width (256), hard negatives per query (0).
//! Out: one line of JSON on stdout: seconds (the faster of two runs), and MiB: of the inputs, the most
//!      that was resident, and what the b × b matrix of logits alone would take.
//!
//!     cargo run --release -p conjoin-train --example loss_speed -- 32768 256

use std::{error::Error, time::Instant};

use conjoin_core::{Embeddings, Seed};
use conjoin_train::{
    Batch, FalseNegatives, InfoNce, Labels, Loss, LossScalar, Negatives, Reduction,
};
use rand::Rng as _;

const RUNS: usize = 2;

fn unit_rows(n: usize, e: usize, seed: Seed) -> Embeddings {
    let mut rng = seed.rng();
    let mut rows = Embeddings::zeros(n, e);
    rows.values_mut().iter_mut().for_each(|x| *x = rng.random_range(-1.0..1.0));
    rows.normalize();
    rows
}

/// The most memory that was ever resident, in KiB; 0 where the system does not tell.
fn peak_kib() -> u64 {
    conjoin_train::peak_memory_bytes().unwrap_or(0) / 1024
}

fn mib(bytes: usize) -> usize {
    bytes / (1 << 20)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let mut number =
        |default: usize| given.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (b, e, m) = (number(32_768)?, number(256)?, number(0)?);
    let queries = unit_rows(b, e, Seed(1));
    let documents = unit_rows(b * (1 + m), e, Seed(2));
    let log_scale = LossScalar { name: "log_scale", init: 3.0, min: 0.0, max: 4.6, learned: true };
    let same = FalseNegatives::none();
    let batch = Batch {
        queries: &queries,
        documents: &documents,
        false_negatives: &same,
        labels: Labels::None,
    };
    let loss = InfoNce::new(Reduction::SymmetricSum, log_scale).with_negatives(Negatives::All);
    let (mut seconds, mut found) = (f64::INFINITY, 0.0);
    for _ in 0..RUNS {
        let begun = Instant::now();
        found = loss.evaluate(batch, &[log_scale.init]).loss;
        seconds = seconds.min(begun.elapsed().as_secs_f64());
    }
    let inputs = 4 * (queries.values().len() + documents.values().len());
    let (inputs, logits, peak) = (mib(inputs), mib(4 * b * documents.len()), peak_kib() / 1024);
    let threads = rayon::current_num_threads();
    let told = serde_json::json!({
        "b": b, "e": e, "m": m, "threads": threads, "loss": found, "seconds": seconds,
        "inputs_mib": inputs, "peak_mib": peak, "logits_would_be_mib": logits,
    });
    Ok(serde_json::to_writer(std::io::stdout(), &told)?)
}
