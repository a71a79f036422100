//! candle's CLIP and BERT as a contender: embeds the same work again and again, when told to.
//!
//! In:  MODEL, a folder of transformers; `--pixels FILE` (u8 `[b, 224, 224, 3]`, without a header) or `--ids FILE` (a
//!      JSON list of lists of one length); `--threads` and `--precision f32`, which is all there is (threads are
//!      `$RAYON_NUM_THREADS`). Then lines on stdin: a number of repetitions each.
//! Out: as `crates/model/examples/speed.rs` of conjoin: `ready`, `vectors`, then `seconds` and `items` per line of stdin, and
//!      `peak_kib` at its end.

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, IndexOp, Module, Tensor};
use candle_nn::{Linear, VarBuilder, linear_no_bias};
use candle_transformers::models::{
    bert::{BertModel, Config},
    clip::{
        text_model::{ClipTextConfig, ClipTextTransformer},
        vision_model::{ClipVisionConfig, ClipVisionTransformer},
    },
};
use serde_json::{Value, json};

const SIDE: usize = 224;
/// Vectors that are told for comparison.
const TOLD: usize = 4;
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

enum Model {
    Vision(ClipVisionTransformer, Linear),
    Text(ClipTextTransformer, Linear),
    Sentence { model: BertModel, first: bool },
}

impl Model {
    fn open(folder: &Path) -> Result<Self> {
        let config = read_json(&folder.join("config.json"))?;
        let file = folder.join("model.safetensors");
        // SAFETY: nobody writes the file while it is mapped.
        let weights =
            unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu)? };
        let kind = config["model_type"].as_str().context("`model_type`")?;
        Ok(match kind {
            "clip_vision_model" => {
                let patch_size = config["patch_size"].as_u64().context("`patch_size`")? as usize;
                let config =
                    ClipVisionConfig { patch_size, ..ClipVisionConfig::vit_base_patch32() };
                let projection = linear_no_bias(768, 512, weights.pp("visual_projection"))?;
                Self::Vision(
                    ClipVisionTransformer::new(weights.pp("vision_model"), &config)?,
                    projection,
                )
            }
            "clip_text_model" => {
                let config = ClipTextConfig::vit_base_patch32();
                let projection = linear_no_bias(512, 512, weights.pp("text_projection"))?;
                Self::Text(ClipTextTransformer::new(weights.pp("text_model"), &config)?, projection)
            }
            "bert" => {
                let pooling = read_json(&folder.join("1_Pooling/config.json"))?;
                let config: Config = serde_json::from_value(config)?;
                let first = pooling["pooling_mode_cls_token"] == json!(true);
                Self::Sentence { model: BertModel::load(weights, &config)?, first }
            }
            other => bail!("candle's worker does not know `{other}`"),
        })
    }

    fn embed(&self, x: &Tensor) -> Result<Tensor> {
        let vectors = match self {
            Self::Vision(model, projection) => projection.forward(&model.forward(x)?)?,
            Self::Text(model, projection) => projection.forward(&model.forward(x)?)?,
            Self::Sentence { model, first } => {
                let hidden = model.forward(x, &x.zeros_like()?, None)?; // [b, t, d]
                if *first { hidden.i((.., 0))? } else { hidden.mean(1)? }
            }
        };
        Ok(vectors.broadcast_div(&vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

/// `[b, 3, side, side]`, normalised as CLIP's pictures.
fn pixels(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path)?;
    let values: Vec<f32> = bytes.iter().map(|x| f32::from(*x) / 255.0).collect();
    let x =
        Tensor::from_vec(values, (bytes.len() / (3 * SIDE * SIDE), SIDE, SIDE, 3), &Device::Cpu)?;
    let row = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu);
    let x = x.broadcast_sub(&row(MEAN)?)?.broadcast_div(&row(STD)?)?;
    Ok(x.permute((0, 3, 1, 2))?.contiguous()?)
}

fn ids(path: &Path) -> Result<Tensor> {
    let rows: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(Tensor::new(rows, &Device::Cpu)?)
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().context("expected a model's folder")?);
    let mut options = BTreeMap::new();
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        options.insert(name, value);
    }
    let x = match (options.get("--pixels"), options.get("--ids")) {
        (Some(path), None) => pixels(path.as_ref())?,
        (None, Some(path)) => ids(path.as_ref())?,
        _ => bail!("expected --pixels or --ids"),
    };
    let begun = Instant::now();
    let model = Model::open(&folder)?;
    model.embed(&x.i(..1)?)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", json!({"ready": begun.elapsed().as_secs_f64()}))?;

    let n = x.dim(0)?;
    let vectors = model.embed(&x.i(..n.min(TOLD))?)?.to_vec2::<f32>()?;
    writeln!(out, "{}", json!({"vectors": vectors}))?;
    for line in std::io::stdin().lock().lines() {
        let mut seconds = Vec::new();
        for _ in 0..line?.trim().parse::<usize>()?.max(1) {
            let begun = Instant::now();
            model.embed(&x)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        writeln!(out, "{}", json!({"seconds": seconds[seconds.len() / 2], "items": n}))?;
    }
    writeln!(out, "{}", json!({"peak_kib": peak_kib()}))?;
    Ok(())
}
