//! Models as folders of `open_clip`.
//!
//! In:  a model. Out: the folder it came from with its numbers of today, or its built-in towers for pairs of
//!      CLIP's shape.
//! Source: `open_clip` 3.3, names of `CLIP` and `VisionTransformer`. Parity: `testdata/parity/export`.

use conjoin_engine::Activation;
use conjoin_input::{ImageContract, Interpolation, ResizeMode};
use serde_json::{Value, json};

use super::{
    Folder,
    clip::{Pair, joined},
    hf::{stored, whole_origin},
    laying::{BlockNames, Laying, QkvNames},
    not_expressible, tokenizer,
};
use crate::{
    EncoderSpec, FolderLayout, ForeignTensor, Model, ModelErrorKind, Order, Origin,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

const WEIGHTS: &str = "open_clip_model.safetensors";

const PYTHON: &str = "import open_clip\n\
    model, preprocess = open_clip.create_model_from_pretrained(\"local-dir:FOLDER\")\n\
    tokenizer = open_clip.get_tokenizer(\"local-dir:FOLDER\")";

/// The folder, and the Python that opens it.
pub(crate) fn folder(model: &Model) -> Result<(Folder, String), ModelErrorKind> {
    let mut folder = Folder::default();
    if let Some(origin) = whole_origin(model, FolderLayout::OpenClip) {
        for (name, text) in &origin.files {
            folder.put(name, stored(name, text)?);
        }
        folder.tensors(WEIGHTS, origin.tensors.clone());
        add_tokenizer(&mut folder, model, Some(origin))?;
    } else {
        let pair = Pair::of(model)?;
        folder.json("open_clip_config.json", &config(&pair, model)?);
        folder.tensors(WEIGHTS, tensors(&pair));
        add_tokenizer(&mut folder, model, None)?;
    }
    Ok((folder, PYTHON.to_owned()))
}

/// The library has CLIP's own tokeniser built in; a folder that brings one names it.
fn add_tokenizer(
    folder: &mut Folder,
    model: &Model,
    origin: Option<&Origin>,
) -> Result<(), ModelErrorKind> {
    let config = origin.and_then(|origin| origin.files.get("open_clip_config.json"));
    if config.is_some_and(|config| !config.contains("hf_tokenizer_name")) {
        return Ok(());
    }
    tokenizer::add(folder, model, origin)
}

fn config(pair: &Pair<'_>, model: &Model) -> Result<Value, ModelErrorKind> {
    let Some(contract) = &model.spec().contract.image else {
        return Err(not_expressible("`contract.image`", "none"));
    };
    let quick = match (pair.text.mlp.activation, pair.image.mlp.activation) {
        (Activation::Gelu, Activation::Gelu) => false,
        (Activation::QuickGelu, Activation::QuickGelu) => true,
        (text, image) => {
            let found = format!("{text:?} for texts and {image:?} for pictures");
            return Err(not_expressible("`mlp.activation`", found));
        }
    };
    let mut text = json!({
        "context_length": pair.max_tokens,
        "vocab_size": pair.vocabulary,
        // Any name makes the library read the tokeniser beside the weights.
        "hf_tokenizer_name": "tokenizer.json",
        "width": pair.text.width,
        "heads": pair.text.attention.heads,
        "layers": pair.text.layers,
        "mlp_ratio": ratio(pair.text)?,
        "norm_kwargs": {"eps": pair.text.norm.eps},
    });
    // The library looks for the largest id unless told otherwise.
    if let Some(id) = pair.end.filter(|id| *id as usize + 1 != pair.vocabulary) {
        text["pool_type"] = "eos".into();
        text["eos_id"] = id.into();
    }
    let vision = json!({
        "image_size": pair.image_size,
        "patch_size": pair.patch_size,
        "width": pair.image.width,
        "head_width": pair.image.width / pair.image.attention.heads,
        "layers": pair.image.layers,
        "mlp_ratio": ratio(pair.image)?,
        "norm_kwargs": {"eps": pair.image.norm.eps},
    });
    Ok(json!({
        "model_cfg": {
            "embed_dim": pair.width,
            "quick_gelu": quick,
            "vision_cfg": vision,
            "text_cfg": text,
        },
        "preprocess_cfg": preprocessing(contract)?,
    }))
}

/// The width of the MLP as the factor that the library multiplies with and rounds down.
fn ratio(spec: &EncoderSpec) -> Result<f64, ModelErrorKind> {
    let (width, m) = (spec.width as f64, spec.mlp.width as f64);
    let exact = m / width;
    #[expect(clippy::float_cmp, reason = "the library's own arithmetic must give the very number")]
    let found = [exact, exact.next_up()].into_iter().find(|ratio| (width * ratio).trunc() == m);
    found.ok_or_else(|| not_expressible("`mlp.width`", spec.mlp.width.to_string()))
}

fn preprocessing(contract: &ImageContract) -> Result<Value, ModelErrorKind> {
    if contract.resized() != contract.size {
        let found = contract.resized().to_string();
        return Err(not_expressible("`contract.image.resized`", found));
    }
    let interpolation = match contract.interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    };
    let (mode, fill) = match contract.resize {
        ResizeMode::Squash => ("squash", 0),
        ResizeMode::ShortestCenterCrop { .. } => ("shortest", 0),
        ResizeMode::LongestPad { fill: [r, g, b] } if r == g && g == b => ("longest", r),
        ResizeMode::LongestPad { fill } => {
            return Err(not_expressible("`contract.image.resize.fill`", format!("{fill:?}")));
        }
    };
    Ok(json!({
        "mean": contract.mean,
        "std": contract.std,
        "interpolation": interpolation,
        "resize_mode": mode,
        "fill_color": fill,
    }))
}

const BLOCK: BlockNames = BlockNames {
    qkv: QkvNames::Fused("attn.in_proj_"),
    out: "attn.out_proj",
    attention_norm: "ln_1",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    mlp_norm: "ln_2",
};

fn tensors(pair: &Pair<'_>) -> Vec<ForeignTensor> {
    let (spec, d) = (pair.text, pair.text.width);
    let mut text = Laying::of(TEXT_PREFIX);
    text.whole("token_embedding.weight", "tokens.weight", &[pair.vocabulary, d]);
    text.whole("positional_embedding", "positions.weight", &[pair.max_tokens, d]);
    for i in 0..spec.layers {
        text.block(i, "transformer.resblocks", &BLOCK, [d, spec.mlp.width]);
    }
    text.norm("ln_final", "output_norm", d);
    text.ordered("text_projection", "head.0.weight", &[d, pair.width], Order::Transposed);

    let (spec, d, side) = (pair.image, pair.image.width, pair.patch_size);
    let mut image = Laying::of(IMAGE_PREFIX);
    image.ordered("visual.conv1.weight", "patch.weight", &[d, 3, side, side], Order::Kernel);
    image.whole("visual.class_embedding", "class", &[d]);
    image.whole("visual.positional_embedding", "positions.weight", &[spec.max_tokens(), d]);
    image.norm("visual.ln_pre", "input_norm", d);
    for i in 0..spec.layers {
        image.block(i, "visual.transformer.resblocks", &BLOCK, [d, spec.mlp.width]);
    }
    image.norm("visual.ln_post", "output_norm", d);
    image.ordered("visual.proj", "head.0.weight", &[d, pair.width], Order::Transposed);
    joined(text, image)
}
