//! How much of the machine's peak a vision transformer reaches: its floating-point operations per second beside those
//! of fused multiply-adds that touch no memory, measured in turns.
//!
//! In:  `--model vit_b16|vit_b32`, `--batch N` (16), `--rounds N` (5), `--threads N` (2).
//! Out: a line of JSON per round, and the median of the shares. Operations are those that are done: the last layer
//!      computes keys and values of all tokens and the rest of the class token alone.
//!
//!     cargo run --release -p conjoin-model --example peak_share -- --model vit_b16

#[path = "../../engine/benches/peak/mod.rs"]
mod peak;

use std::{collections::BTreeMap, error::Error, hint::black_box, io::Write, time::Instant};

use conjoin_core::{Seed, Tower};
use conjoin_input::{ImageContract, Pixels};
use conjoin_model::{EncoderInput, EncoderSpec, ImageSpec, ImageTower, NameMap};
use serde_json::json;

const SIDE: usize = 224;
const WIDTH: usize = 768;
const LAYERS: usize = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let pairs = args.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str()));
    let options: BTreeMap<&str, &str> = pairs.collect();
    let number = |key: &str, usual: usize| options.get(key).map_or(Ok(usual), |n| n.parse());
    let patch = match options.get("--model").copied().unwrap_or("vit_b16") {
        "vit_b16" => 16,
        "vit_b32" => 32,
        other => return Err(format!("`{other}` is neither vit_b16 nor vit_b32").into()),
    };
    let (batch, rounds) = (number("--batch", 16)?, number("--rounds", 5)?);
    let threads = number("--threads", 2)?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let tower = vision(patch)?;
    let picture = Pixels::new(SIDE, SIDE, (0..3 * SIDE * SIDE).map(|i| (i % 251) as u8).collect())?;
    let pictures = vec![&picture; batch];
    black_box(tower.embed(&pictures)?);
    let mut out = std::io::stdout().lock();
    let mut shares = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        black_box(tower.embed(&pictures)?);
        let reached = batch as f64 * operations(patch) / begun.elapsed().as_secs_f64();
        let peak = peak_rate();
        shares.push(reached / peak);
        let (reached, peak) = (reached / 1e9, peak / 1e9);
        writeln!(
            out,
            "{}",
            json!({"gflops": reached, "peak_gflops": peak, "share": reached / peak})
        )?;
    }
    shares.sort_by(f64::total_cmp);
    writeln!(out, "{}", json!({"median_share": shares[shares.len() / 2]}))?;
    Ok(())
}

fn vision(patch_size: usize) -> Result<ImageTower, Box<dyn Error>> {
    let input =
        EncoderInput::Patches { image_size: SIDE, patch_size, bias: false, class_token: true };
    let spec = EncoderSpec::pre_norm(input, WIDTH, LAYERS, WIDTH / 64).projected(512);
    let contract = ImageContract::clip(SIDE);
    Ok(ImageTower::build(&ImageSpec::Transformer(spec), &contract, &NameMap::default(), Seed(1))?)
}

/// Additions and multiplications of one picture.
fn operations(patch: usize) -> f64 {
    let (d, patches) = (WIDTH as f64, ((SIDE / patch) * (SIDE / patch)) as f64);
    let tokens = patches + 1.0;
    let embedding = 2.0 * patches * (3 * patch * patch) as f64 * d;
    let whole = 2.0 * tokens * 12.0 * d * d + 4.0 * tokens * tokens * d;
    // Keys and values of all; the query, attention, its output and the MLP of one.
    let last = 2.0 * tokens * 2.0 * d * d + 2.0 * 10.0 * d * d + 4.0 * tokens * d;
    embedding + (LAYERS - 1) as f64 * whole + last + 2.0 * d * 512.0
}

/// Operations per second of all threads at once, for about a second.
fn peak_rate() -> f64 {
    const STEPS: usize = 20_000_000;
    let begun = Instant::now();
    let done: usize = rayon::broadcast(|_| peak::multiply_add(STEPS)).into_iter().sum();
    done as f64 / begun.elapsed().as_secs_f64()
}
