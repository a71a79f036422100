//! Prepared training batches as a file, so that another trainer can be run on exactly the same ones.
//!
//! In:  a recipe. Out: `start/` (the checkpoint training starts from) and `batches.safetensors` with
//!      `step.N.{ids, offsets, pixels, groups}` of the first steps, as `benches/peers/train.py` reads.

use std::path::Path;

use anyhow::{Context, Result, bail};
use conjoin_core::{Manifest, Stop};
use conjoin_input::{PatchDropout, Pixels};
use conjoin_train::{Inputs, TaskBatch, batches_of};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    console::Console,
    recipe::Recipe,
    sources::{Preparation, StageData},
};

/// A tensor that owns its bytes.
struct Owned {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the start and the first `n_steps` batches of a run into `folder`.
pub(crate) fn export(
    recipe: &Recipe,
    n_steps: u64,
    folder: &Path,
    watch: (&Console, &Stop),
) -> Result<()> {
    let [stage] = recipe.stages.as_slice() else { bail!("batches are exported of one stage") };
    let [task] = stage.tasks.as_slice() else { bail!("batches are exported of one task") };
    if stage.patch_dropout > 0.0 {
        bail!("batches are exported with whole pictures; `patch_dropout` must be 0");
    }
    if task.teacher.is_some() {
        bail!("batches are exported without what a teacher leaves out; leave `teacher` out too");
    }
    let data = StageData::open(stage, watch)?;
    let model = recipe.start_model()?;
    fs_err::create_dir_all(folder)?;
    model.save(&folder.join("start"), Manifest::new("", 0))?;
    let (spec, parts) = model.into_parts();
    let preparation = Preparation {
        tokenizer: parts.tokenizer.as_ref().context("the model has no tokeniser")?,
        text: spec.contract.text.as_ref().context("the model reads no texts")?,
        image: spec.contract.image.as_ref().context("the model sees no pictures")?,
        augment: &stage.augment,
        token_dropout: stage.token_dropout,
        patch_dropout: PatchDropout::none(),
    };
    let sources = data.sources(&preparation)?;
    let weighted = data.weighted(&sources);
    let config = stage.train_config_on(&weighted);
    let mut tensors = Vec::new();
    let batches = batches_of(&config, &config.tasks[0], &weighted[0], n_steps)
        .with_context(|| format!("task `{}`", task.name))?;
    for (step, batch) in (0..).zip(batches) {
        let batch = batch.with_context(|| format!("step {step} of task `{}`", task.name))?;
        tensors.extend(tensors_of(step, &batch, preparation.image.size)?);
    }
    let views = tensors
        .iter()
        .map(|t| Ok((&t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize_to_file(views, None, &folder.join("batches.safetensors"))?)
}

fn tensors_of(step: u64, batch: &TaskBatch<Vec<u32>, Pixels>, side: usize) -> Result<[Owned; 4]> {
    let (Inputs::Texts(texts), Inputs::Images(images)) = (&batch.queries, &batch.documents) else {
        bail!("batches of texts and pictures are exported")
    };
    let mut offsets = vec![0_i64];
    for ids in texts {
        offsets.push(offsets[offsets.len() - 1] + ids.len() as i64);
    }
    let ids: Vec<i64> = texts.iter().flatten().map(|id| i64::from(*id)).collect();
    #[expect(clippy::cast_possible_wrap, reason = "compared only")]
    let groups: Vec<i64> = batch.aspects[0].queries.iter().map(|id| *id as i64).collect();
    let pixels: Vec<u8> = images.iter().flat_map(|p| p.data().iter().copied()).collect();
    let whole = |name: &str, values: Vec<i64>| Owned {
        name: format!("step.{step}.{name}"),
        dtype: Dtype::I64,
        shape: vec![values.len()],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let shape = vec![images.len(), side, side, 3];
    let name = format!("step.{step}.pixels");
    Ok([
        whole("ids", ids),
        whole("offsets", offsets),
        whole("groups", groups),
        Owned { name, dtype: Dtype::U8, shape, bytes: pixels },
    ])
}
