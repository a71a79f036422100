//! Trains the same dual encoder again and again, when told to: conjoin's part of `benches/peers`.
//!
//! In:  `--pixels FILE` (u8 `[32, 128, 128, 3]`, without a header), `--ids FILE` (a JSON list of lists); `--weights FILE`
//!      (safetensors under our names; `--write-weights` makes it, with fresh numbers, and ends), `--threads N`,
//!      `--precision f32|bf16`, `--chunk N` (inputs per pass). Then lines on stdin: a number of steps each.
//! Out: lines of JSON on stdout. First `ready`: seconds from the start to the end of the first step; then the `losses` of
//!      the first steps, so that programs can be compared. Per line of stdin: the median `seconds` of the steps,
//!      and `items`, pairs per step. At the end of stdin: the most memory that was resident, in KiB.
//! How: towers of 6 layers, width 384, 6 heads: pictures of 128 pixels in patches of 16, texts of 32 tokens of 8,192;
//!      mean pooling, 256 numbers, symmetric InfoNCE, AdamW.
//!
//!     cargo run --release -p conjoin-train --example step_speed -- --weights FILE --pixels FILE --ids FILE

mod dual_encoder;

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    path::Path,
    time::Instant,
};

use conjoin_core::{Parameter, Seed, Tower};
use conjoin_engine::Precision;
use conjoin_input::{ImageContract, Pixels};
use conjoin_model::{
    EncoderInput, EncoderSpec, ImageSpec, ImageTower, NameMap, Pooling, TextTower,
};
use conjoin_train::Chunking;
use dual_encoder::{Failed, Training};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

const SIDE: usize = 128;
/// Steps whose loss is told.
const TOLD: usize = 3;

/// The towers, on a picture of patches and on tokens.
fn towers() -> Result<(TextTower, ImageTower), Failed> {
    let tower = |input| {
        let spec = EncoderSpec::pre_norm(input, 384, 6, 6).projected(256);
        EncoderSpec { pooling: Pooling::Mean, ..spec }
    };
    let text =
        tower(EncoderInput::Tokens { vocabulary: 8192, max_tokens: 32, positions: true, types: 0 });
    let image = tower(EncoderInput::Patches {
        image_size: SIDE,
        patch_size: 16,
        bias: true,
        class_token: false,
    });
    let (fresh, contract) = (NameMap::default(), ImageContract::clip(SIDE));
    let text = TextTower::build(&text, &fresh, Seed(1))?;
    let image = ImageTower::build(&ImageSpec::Transformer(image), &contract, &fresh, Seed(2))?;
    Ok((text, image))
}

fn write_weights(path: &Path, text: &TextTower, image: &ImageTower) -> Result<(), Failed> {
    let all = text.parameters().iter().chain(image.parameters());
    let bytes: Vec<(&Parameter, Vec<u8>)> =
        all.map(|p| (p, p.value.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let views = bytes
        .iter()
        .map(|(p, bytes)| Ok((&p.name, TensorView::new(Dtype::F32, p.shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, Failed>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}

fn read_weights(path: &Path, parameters: &mut [Parameter]) -> Result<(), Failed> {
    let bytes = fs_err::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    for parameter in parameters {
        let tensor = file.tensor(&parameter.name)?;
        let (values, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|x| f32::from_le_bytes(*x)).collect();
        if tensor.shape() != parameter.shape {
            return Err(format!("`{}` is of shape {:?}", parameter.name, tensor.shape()).into());
        }
        parameter.value = values.into();
    }
    Ok(())
}

/// The most memory that was ever resident, in KiB; 0 where the system does not tell.
fn peak_kib() -> u64 {
    conjoin_train::peak_memory_bytes().unwrap_or(0) / 1024
}

/// `--name value` pairs.
fn options() -> Result<BTreeMap<String, String>, Failed> {
    let mut args = std::env::args().skip(1);
    let mut options = BTreeMap::new();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("`{name}` needs a value"))?;
        options.insert(name, value);
    }
    Ok(options)
}

fn read_batch(pixels: &str, ids: &str) -> Result<(Vec<Pixels>, Vec<Vec<u32>>), Failed> {
    let bytes = fs_err::read(pixels)?;
    let pictures = bytes.chunks_exact(3 * SIDE * SIDE);
    let pictures = pictures.map(|p| Pixels::new(SIDE, SIDE, p.to_vec()));
    let ids = serde_json::from_slice(&fs_err::read(ids)?)?;
    Ok((pictures.collect::<Result<_, _>>()?, ids))
}

fn main() -> Result<(), Failed> {
    let options = options()?;
    let option = |name: &str| options.get(name).map(String::as_str);
    let threads = option("--threads").unwrap_or("1").parse()?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let begun = Instant::now();
    let (mut text, mut image) = towers()?;
    if let Some(path) = option("--write-weights") {
        return write_weights(path.as_ref(), &text, &image);
    }
    let weights = Path::new(option("--weights").ok_or("expected --weights")?);
    read_weights(weights, text.parameters_mut())?;
    read_weights(weights, image.parameters_mut())?;
    let precision = option("--precision").unwrap_or("f32");
    let precision: Precision = serde_json::from_value(precision.into())?;
    text.set_precision(&precision.into())?;
    image.set_precision(&precision.into())?;
    let pixels = option("--pixels").ok_or("expected --pixels")?;
    let (images, texts) = read_batch(pixels, option("--ids").ok_or("expected --ids")?)?;
    let (images, texts): (Vec<_>, Vec<_>) = (images.iter().collect(), texts.iter().collect());
    let chunk = option("--chunk").map_or(Ok(texts.len()), str::parse)?;
    let mut training = Training::new(text, image, Chunking { size: chunk, held: usize::MAX });

    let mut losses = vec![training.step(&texts, &images)?];
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", json!({"ready": begun.elapsed().as_secs_f64()}))?;
    for _ in 1..TOLD {
        losses.push(training.step(&texts, &images)?);
    }
    writeln!(out, "{}", json!({"losses": losses}))?;
    for line in std::io::stdin().lock().lines() {
        let mut seconds = Vec::new();
        for _ in 0..line?.trim().parse::<usize>()?.max(1) {
            let begun = Instant::now();
            training.step(&texts, &images)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        writeln!(out, "{}", json!({"seconds": median, "items": texts.len()}))?;
    }
    writeln!(out, "{}", json!({"peak_kib": peak_kib()}))?;
    Ok(())
}
