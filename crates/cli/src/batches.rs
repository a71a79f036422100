//! Prepared training batches as a file, so that another trainer can be run on exactly the same ones.
//!
//! In:  a recipe. Out: `start/` (the checkpoint training starts from) and `batches.safetensors` with
//!      `step.N.{ids, offsets, pixels, groups}` of the first steps, as `benches/peers/train.py` reads.

use std::path::Path;

use anyhow::{Context, Result};
use conjoin_core::Manifest;
use conjoin_data::Dataset;
use conjoin_train::{PairBatch, PairSource, Sampler, SamplerConfig};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    pairs::{DatasetPairs, Preparation},
    recipe::Recipe,
};

/// A tensor that owns its bytes.
struct Owned {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the start and the first `n_steps` batches of a run into `folder`.
pub(crate) fn export(recipe: &Recipe, n_steps: u64, folder: &Path) -> Result<()> {
    let dataset = Dataset::open(&recipe.data)?;
    let model = recipe.start_model()?;
    fs_err::create_dir_all(folder)?;
    model.save(&folder.join("start"), Manifest::new("", 0))?;
    let (spec, parts) = model.into_parts();
    let tokenizer = parts.tokenizer.as_ref().context("the model has no tokeniser")?;
    let text = spec.contract.text.as_ref().context("the model reads no texts")?;
    let image = spec.contract.image.as_ref().context("the model sees no pictures")?;
    let pairs = DatasetPairs::new(
        &dataset,
        Preparation {
            tokenizer,
            text,
            image,
            augment: &recipe.augment,
            title_share: recipe.title_share,
        },
    );
    // The same streams as the trainer's, so that these are its batches.
    let sampler = SamplerConfig { batch: recipe.train.batch, drop_last: true };
    let seed = recipe.train.seed;
    let sampler = Sampler::new(pairs.len(), sampler, seed.stream("sampler"), &pairs.aspects())?;
    let mut tensors = Vec::new();
    for step in 0..n_steps {
        let batch = pairs.load(&sampler.batch(step), seed.stream("inputs").at(step))?;
        tensors.extend(tensors_of(step, &batch, image.size));
    }
    let views = tensors
        .iter()
        .map(|t| Ok((&t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize_to_file(views, None, &folder.join("batches.safetensors"))?)
}

fn tensors_of(
    step: u64,
    batch: &PairBatch<Vec<u32>, conjoin_input::Pixels>,
    side: usize,
) -> [Owned; 4] {
    let mut offsets = vec![0_i64];
    for ids in &batch.texts {
        offsets.push(offsets[offsets.len() - 1] + ids.len() as i64);
    }
    let ids: Vec<i64> = batch.texts.iter().flatten().map(|id| i64::from(*id)).collect();
    #[expect(clippy::cast_possible_wrap, reason = "groups are numbered from 0")]
    let groups: Vec<i64> = batch.group_ids.iter().map(|id| *id as i64).collect();
    let pixels: Vec<u8> = batch.images.iter().flat_map(|p| p.data().iter().copied()).collect();
    let whole = |name: &str, values: Vec<i64>| Owned {
        name: format!("step.{step}.{name}"),
        dtype: Dtype::I64,
        shape: vec![values.len()],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    [
        whole("ids", ids),
        whole("offsets", offsets),
        whole("groups", groups),
        Owned {
            name: format!("step.{step}.pixels"),
            dtype: Dtype::U8,
            shape: vec![batch.images.len(), side, side, 3],
            bytes: pixels,
        },
    ]
}
