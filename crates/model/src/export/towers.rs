//! Towers of ours as public architectures that compute the same.
//!
//! In:  the spec of a tower that came from nowhere. Out: the folder of a transformers model.
//! Texts: ESM (Rives et al. 2021), the one pre-norm encoder of transformers that sees both ways and
//! learns its positions; it numbers them from behind the padding's. Pictures: MobileNet v1, whose batch
//! norms get mean 0 and variance 1 − ε, so that scale and shift stay what they are.

use conjoin_engine::Activation;
use serde_json::{Value, json};

use super::{
    Folder,
    folder::WEIGHTS,
    laying::{BlockNames, Laying, QkvNames},
    not_expressible,
    tokenizer::{self, padding},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, ImageSpec, MlpRule, MobileNetSpec, Model,
    ModelErrorKind, NormPlacement, NormRule, Order, OutputNorm,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
    weights::BATCH_NORM_EPS,
};

/// A text tower of ours without its head.
pub(crate) fn text(model: &Model, spec: &EncoderSpec) -> Result<Folder, ModelErrorKind> {
    let Some(stored) = &model.parts().tokenizer else {
        return Err(not_expressible("`text`", "no tokeniser"));
    };
    let (pad, _) = padding(&stored.to_json())?;
    let first = usize::try_from(pad).unwrap_or(usize::MAX).saturating_add(1);
    let EncoderInput::Tokens { vocabulary, max_tokens, positions: true, types: 0 } = spec.input
    else {
        return Err(not_expressible("`text.input`", "types of tokens, or no positions"));
    };
    let size = [vocabulary, max_tokens];
    same_rules("text", spec, &esm_spec(spec))?;
    if first > vocabulary {
        return Err(not_expressible("the tokeniser's padding", "an id beyond the vocabulary"));
    }
    let mut folder = Folder::default();
    folder.json("config.json", &esm_config(spec, size, first));
    folder.tensors(WEIGHTS, esm_tensors(spec, size, first).finish());
    tokenizer::add(&mut folder, model, None)?;
    Ok(folder)
}

/// The spec that ESM computes, for these sizes.
fn esm_spec(spec: &EncoderSpec) -> EncoderSpec {
    EncoderSpec {
        input_norm: false,
        attention: AttentionRule::plain(spec.attention.heads),
        mlp: MlpRule::plain(spec.mlp.width, Activation::Gelu),
        norm: NormRule::plain(NormPlacement::Pre, spec.norm.eps),
        layer_scale: false,
        output_norm: OutputNorm::Tokens,
        ..spec.clone()
    }
}

fn esm_config(spec: &EncoderSpec, [vocabulary, max_tokens]: [usize; 2], first: usize) -> Value {
    json!({
        "architectures": ["EsmModel"],
        "model_type": "esm",
        "vocab_size": vocabulary,
        "max_position_embeddings": first + max_tokens,
        "position_embedding_type": "absolute",
        "pad_token_id": first - 1,
        "mask_token_id": null,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.attention.heads,
        "intermediate_size": spec.mlp.width,
        "layer_norm_eps": spec.norm.eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": false,
        "token_dropout": false,
        "is_folding_model": false,
        "dtype": "float32",
    })
}

/// Names the first rule in which two specs differ.
pub(crate) fn same_rules(
    tower: &str,
    found: &EncoderSpec,
    sayable: &EncoderSpec,
) -> Result<(), ModelErrorKind> {
    let [found, sayable] = [found, sayable].map(serde_json::to_value);
    let (Ok(Value::Object(found)), Ok(Value::Object(sayable))) = (found, sayable) else {
        return Ok(());
    };
    let differs = found.iter().find(|(key, value)| sayable.get(*key) != Some(*value));
    match differs {
        None => Ok(()),
        Some((key, value)) => Err(not_expressible(&format!("`{tower}.{key}`"), value.to_string())),
    }
}

const ESM_BLOCK: BlockNames = BlockNames {
    qkv: QkvNames::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    out: "attention.output.dense",
    attention_norm: "attention.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "LayerNorm",
};

fn esm_tensors(spec: &EncoderSpec, [vocabulary, max_tokens]: [usize; 2], first: usize) -> Laying {
    let (d, m) = (spec.width, spec.mlp.width);
    let mut tensors = Laying::of(TEXT_PREFIX);
    tensors.whole("embeddings.word_embeddings.weight", "tokens.weight", &[vocabulary, d]);
    let positions = "embeddings.position_embeddings.weight";
    tensors.behind(positions, "positions.weight", [max_tokens, d], first);
    for i in 0..spec.layers {
        tensors.block(i, "encoder.layer", &ESM_BLOCK, [d, m]);
    }
    tensors.norm("encoder.emb_layer_norm_after", "output_norm", d);
    // Parts of an ESM model that no embedding goes through.
    tensors.filled("pooler.dense.weight", &[d, d], 0.0);
    tensors.filled("pooler.dense.bias", &[d], 0.0);
    let maps = spec.layers * spec.attention.heads;
    tensors.filled("contact_head.regression.weight", &[1, maps], 0.0);
    tensors.filled("contact_head.regression.bias", &[1], 0.0);
    tensors
}

/// An image tower of ours without its projection.
pub(crate) fn image(model: &Model, spec: &ImageSpec) -> Result<Folder, ModelErrorKind> {
    let ImageSpec::MobileNet(spec) = spec else {
        return Err(not_expressible("`image`", "a transformer that came from elsewhere"));
    };
    let mut folder = Folder::default();
    folder.json("config.json", &mobilenet_config(spec)?);
    folder.tensors(WEIGHTS, mobilenet_tensors(spec).finish());
    super::hf::add_preprocessor(&mut folder, model, "MobileNetV1ImageProcessor")?;
    Ok(folder)
}

/// Transformers knows the published network times a factor, and a least number of channels.
fn mobilenet_config(spec: &MobileNetSpec) -> Result<Value, ModelErrorKind> {
    let factor = spec.features() as f64 / 1024.0;
    let least = spec.stem_filters;
    let channels = |n: usize| ((n as f64 * factor) as usize).max(least);
    let published = MobileNetSpec::v1(1.0, spec.image_size, spec.projection);
    let mut sayable = published.clone();
    sayable.stem_filters = channels(published.stem_filters);
    for block in &mut sayable.blocks {
        block.filters = channels(block.filters);
    }
    if *spec != sayable {
        let found = "blocks that are not MobileNet v1's times one factor";
        return Err(not_expressible("`image.blocks`", found));
    }
    Ok(json!({
        "architectures": ["MobileNetV1Model"],
        "model_type": "mobilenet_v1",
        "depth_multiplier": factor,
        "min_depth": least,
        "image_size": spec.image_size,
        "num_channels": 3,
        "hidden_act": "relu6",
        "tf_padding": true,
        "layer_norm_eps": BATCH_NORM_EPS,
        "dtype": "float32",
    }))
}

fn mobilenet_tensors(spec: &MobileNetSpec) -> Laying {
    let mut tensors = Laying::of(IMAGE_PREFIX);
    let mut put = |ours: &str, theirs: &str, shape: [usize; 4], order: Order| {
        let (n, norm) = (shape[0], format!("{theirs}.normalization"));
        let weight = format!("{theirs}.convolution.weight");
        tensors.ordered(&weight, &format!("{ours}.weight"), &shape, order);
        tensors.whole(&format!("{norm}.weight"), &format!("{ours}.scale"), &[n]);
        tensors.whole(&format!("{norm}.bias"), &format!("{ours}.bias"), &[n]);
        tensors.filled(&format!("{norm}.num_batches_tracked"), &[], 0.0);
        tensors.filled(&format!("{norm}.running_mean"), &[n], 0.0);
        tensors.filled(&format!("{norm}.running_var"), &[n], 1.0 - BATCH_NORM_EPS);
    };
    let mut c = spec.stem_filters;
    put("stem", "conv_stem", [c, 3, 3, 3], Order::Kernel);
    for (i, block) in spec.blocks.iter().enumerate() {
        let name = |part: &str| format!("blocks.{i}.{part}");
        let (first, second) = (format!("layer.{}", 2 * i), format!("layer.{}", 2 * i + 1));
        put(&name("depthwise"), &first, [c, 1, 3, 3], Order::Transposed);
        put(&name("pointwise"), &second, [block.filters, c, 1, 1], Order::Same);
        c = block.filters;
    }
    tensors
}
