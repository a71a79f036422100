//! How the time of a training step and its memory grow with batch, tokens and width.
//!
//! In:  nothing; or `BATCH TOKENS WIDTH`, one point. Out: a table in Markdown on stdout; of one point, a line of JSON.
//! How: a text tower and a vision transformer on pictures of 64 pixels, four layers each, bf16, chunks of 16 of which
//!      none is held (every input passes twice, as in a batch of any size), symmetric InfoNCE, AdamW. Every point runs
//!      in a process of its own: the median of three steps after a first, and the most memory that was resident.
//!
//!     cargo run --release -p conjoin-train --example step_scaling

mod dual_encoder;

use std::{io::Write, process::Command, time::Instant};

use conjoin_core::Seed;
use conjoin_engine::Precision;
use conjoin_input::{ImageContract, Pixels};
use conjoin_model::{
    EncoderInput, EncoderSpec, ImageSpec, ImageTower, NameMap, Pooling, TextTower,
};
use conjoin_train::{Chunking, peak_memory_bytes};
use dual_encoder::{Failed, Training};
use rand::Rng as _;
use serde_json::{Value, json};

const SIDE: usize = 64;
const LAYERS: usize = 4;
const VOCABULARY: usize = 8192;
const STEPS: usize = 3;

/// Batch, tokens of a text, width.
type Point = [usize; 3];

/// What is varied, and its points.
const SERIES: [(&str, &[Point]); 3] = [
    ("batch", &[[64, 32, 192], [256, 32, 192], [1024, 32, 192], [4096, 32, 192]]),
    ("tokens", &[[64, 16, 192], [64, 64, 192], [64, 256, 192], [64, 512, 192]]),
    ("width", &[[64, 32, 96], [64, 32, 192], [64, 32, 384], [64, 32, 768]]),
];

fn towers([_, tokens, width]: Point) -> Result<(TextTower, ImageTower), Failed> {
    let tower = |input| {
        let spec = EncoderSpec::pre_norm(input, width, LAYERS, width / 32).projected(256);
        EncoderSpec { pooling: Pooling::Mean, ..spec }
    };
    let text = EncoderInput::Tokens {
        vocabulary: VOCABULARY,
        max_tokens: tokens,
        positions: true,
        types: 0,
    };
    let image =
        EncoderInput::Patches { image_size: SIDE, patch_size: 16, bias: true, class_token: false };
    let (fresh, contract) = (NameMap::default(), ImageContract::clip(SIDE));
    let mut text = TextTower::build(&tower(text), &fresh, Seed(1))?;
    let image = ImageSpec::Transformer(tower(image));
    let mut image = ImageTower::build(&image, &contract, &fresh, Seed(2))?;
    text.set_precision(&Precision::Bf16.into())?;
    image.set_precision(&Precision::Bf16.into())?;
    Ok((text, image))
}

/// Times one point.
fn measure(point: Point) -> Result<Value, Failed> {
    let [batch, tokens, _] = point;
    let (text, image) = towers(point)?;
    let mut rng = Seed(3).rng();
    let texts: Vec<Vec<u32>> = (0..batch)
        .map(|_| (0..tokens).map(|_| rng.random_range(0..VOCABULARY as u32)).collect())
        .collect();
    let images: Vec<Pixels> = (0..batch)
        .map(|_| Pixels::new(SIDE, SIDE, (0..3 * SIDE * SIDE).map(|_| rng.random()).collect()))
        .collect::<Result<_, _>>()?;
    let (texts, images): (Vec<_>, Vec<_>) = (texts.iter().collect(), images.iter().collect());
    let mut training = Training::new(text, image, Chunking { size: 16, held: 0 });
    training.step(&texts, &images)?;
    let mut seconds = Vec::new();
    for _ in 0..STEPS {
        let begun = Instant::now();
        training.step(&texts, &images)?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(json!({"seconds": seconds[STEPS / 2], "peak_bytes": peak_memory_bytes().unwrap_or(0)}))
}

/// Runs a point in a process of its own.
fn measured(point: Point) -> Result<Value, Failed> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).args(point.map(|n| n.to_string())).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn table() -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "| varied | batch | tokens | width | s / step | ms / pair | peak MiB |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for (varied, points) in SERIES {
        for point in points {
            let told = measured(*point)?;
            let seconds = told["seconds"].as_f64().unwrap_or(f64::NAN);
            let mib = told["peak_bytes"].as_u64().unwrap_or(0) >> 20;
            let [batch, tokens, width] = point;
            let each = seconds * 1000.0 / *batch as f64;
            writeln!(
                out,
                "| {varied} | {batch} | {tokens} | {width} | {seconds:.3} | {each:.2} | {mib} |"
            )?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Failed> {
    let given: Vec<usize> =
        std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    match given.as_slice() {
        [] => table(),
        [batch, tokens, width] => {
            let told = measure([*batch, *tokens, *width])?;
            Ok(writeln!(std::io::stdout(), "{told}")?)
        }
        _ => Err("expected nothing, or BATCH TOKENS WIDTH".into()),
    }
}
