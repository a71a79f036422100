//! Pairs of CLIP's shape: what transformers' and `open_clip`'s layouts of them have in common, and
//! transformers' own.
//!
//! In:  a model with two transformers. Out: a [`Pair`] if it is CLIP's; `CLIPModel`'s folder.
//! Source: Radford et al. 2021. Parity: `testdata/parity/export`.

use conjoin_engine::{Activation, Mask};
use serde_json::{Value, json};

use super::{
    Folder,
    folder::WEIGHTS,
    hf::add_preprocessor,
    laying::{BlockNames, Laying, QkvNames},
    not_expressible, tokenizer,
    towers::same_rules,
};
use crate::{
    AttentionRule, Content, EncoderInput, EncoderSpec, ForeignTensor, HeadLayer, ImageSpec,
    MlpRule, Model, ModelErrorKind, NormPlacement, NormRule, Order, OutputNorm, Pooling,
    tower::{IMAGE_PREFIX, TEXT_PREFIX},
};

/// Two towers of CLIP's shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) text: &'a EncoderSpec,
    pub(crate) image: &'a EncoderSpec,
    pub(crate) vocabulary: usize,
    pub(crate) max_tokens: usize,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    /// The id whose first token is the text's vector; none: the largest one.
    pub(crate) end: Option<u32>,
    /// Width `e` of the common space.
    pub(crate) width: usize,
}

impl<'a> Pair<'a> {
    /// The two towers, if their rules are CLIP's.
    pub(crate) fn of(model: &'a Model) -> Result<Self, ModelErrorKind> {
        let spec = model.spec();
        let (Some(text), Some(ImageSpec::Transformer(image))) = (&spec.text, &spec.image) else {
            return Err(not_expressible(
                "a text and an image transformer",
                "another kind of model",
            ));
        };
        if spec.score_bias != 0.0 {
            return Err(not_expressible("`score_bias`", spec.score_bias.to_string()));
        }
        let EncoderInput::Tokens { vocabulary, max_tokens, positions: true, types: 0 } = text.input
        else {
            return Err(not_expressible("`text.input`", "types of tokens, or no positions"));
        };
        let EncoderInput::Patches { image_size, patch_size, bias: false, class_token: true } =
            image.input
        else {
            return Err(not_expressible("`image.input`", "patches with a bias, or no class token"));
        };
        let end = match text.pooling {
            Pooling::FirstId(id) => Some(id),
            Pooling::LargestId => None,
            other @ (Pooling::Mean
            | Pooling::Patches
            | Pooling::First
            | Pooling::Last
            | Pooling::Probe { .. }) => {
                return Err(not_expressible("`text.pooling`", format!("{other:?}")));
            }
        };
        let width = text.embedding_width();
        same_rules("text", text, &clip_shape(text, Mask::Causal, width))?;
        let seen = clip_shape(image, Mask::Bidirectional, width);
        same_rules("image", image, &EncoderSpec { pooling: Pooling::First, ..seen })?;
        Ok(Self { text, image, vocabulary, max_tokens, image_size, patch_size, end, width })
    }
}

/// CLIP's rules for a tower of these sizes. A norm of every token or of the pooled one alone is the same
/// where one token is picked.
fn clip_shape(spec: &EncoderSpec, mask: Mask, width: usize) -> EncoderSpec {
    let output_norm = match spec.output_norm {
        OutputNorm::None => OutputNorm::Tokens,
        some @ (OutputNorm::Tokens | OutputNorm::Pooled) => some,
    };
    EncoderSpec {
        input_norm: mask == Mask::Bidirectional,
        attention: AttentionRule { mask, ..AttentionRule::plain(spec.attention.heads) },
        mlp: MlpRule::plain(spec.mlp.width, spec.mlp.activation),
        norm: NormRule::plain(NormPlacement::Pre, spec.norm.eps),
        layer_scale: false,
        output_norm,
        head: vec![HeadLayer::Dense { width, bias: false, activation: Activation::Identity }],
        ..spec.clone()
    }
}

/// `CLIPModel`'s folder, and the Python that opens it.
pub(crate) fn folder(model: &Model) -> Result<(Folder, String), ModelErrorKind> {
    let pair = Pair::of(model)?;
    let mut folder = Folder::default();
    folder.json("config.json", &config(&pair, model)?);
    folder.tensors(WEIGHTS, tensors(&pair));
    tokenizer::add(&mut folder, model, None)?;
    add_preprocessor(&mut folder, model, "CLIPImageProcessor")?;
    Ok((folder, super::hf::PYTHON.to_owned()))
}

fn config(pair: &Pair<'_>, model: &Model) -> Result<Value, ModelErrorKind> {
    let sizes = |spec: &EncoderSpec| -> Result<Value, ModelErrorKind> {
        Ok(json!({
            "hidden_size": spec.width,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.attention.heads,
            "intermediate_size": spec.mlp.width,
            "hidden_act": activation(spec.mlp.activation)?,
            "layer_norm_eps": spec.norm.eps,
            "attention_dropout": 0.0,
            "projection_dim": pair.width,
        }))
    };
    let (mut text, mut image) = (sizes(pair.text)?, sizes(pair.image)?);
    text["model_type"] = "clip_text_model".into();
    // The class's own is an id of CLIP's vocabulary.
    text["bos_token_id"] = Value::Null;
    text["vocab_size"] = pair.vocabulary.into();
    text["max_position_embeddings"] = pair.max_tokens.into();
    // Transformers looks for the largest id where this is 2.
    text["eos_token_id"] = pair.end.unwrap_or(2).into();
    image["model_type"] = "clip_vision_model".into();
    image["image_size"] = pair.image_size.into();
    image["patch_size"] = pair.patch_size.into();
    Ok(json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": pair.width,
        "logit_scale_init_value": model.spec().log_scale,
        "text_config": text,
        "vision_config": image,
        "dtype": "float32",
    }))
}

/// How transformers calls it.
fn activation(activation: Activation) -> Result<&'static str, ModelErrorKind> {
    Ok(match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
        Activation::Relu6 | Activation::Identity => {
            return Err(not_expressible("`mlp.activation`", format!("{activation:?}")));
        }
    })
}

const BLOCK: BlockNames = BlockNames {
    qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.out_proj",
    attention_norm: "layer_norm1",
    up: "mlp.fc1",
    down: "mlp.fc2",
    mlp_norm: "layer_norm2",
};

fn tensors(pair: &Pair<'_>) -> Vec<ForeignTensor> {
    let (spec, d) = (pair.text, pair.text.width);
    let mut text = Laying::of(TEXT_PREFIX);
    let embeddings = "text_model.embeddings";
    let tokens = format!("{embeddings}.token_embedding.weight");
    text.whole(&tokens, "tokens.weight", &[pair.vocabulary, d]);
    let positions = format!("{embeddings}.position_embedding.weight");
    text.whole(&positions, "positions.weight", &[pair.max_tokens, d]);
    for i in 0..spec.layers {
        text.block(i, "text_model.encoder.layers", &BLOCK, [d, spec.mlp.width]);
    }
    text.norm("text_model.final_layer_norm", "output_norm", d);
    text.whole("text_projection.weight", "head.0.weight", &[pair.width, d]);

    let (spec, d, side) = (pair.image, pair.image.width, pair.patch_size);
    let mut image = Laying::of(IMAGE_PREFIX);
    let embeddings = "vision_model.embeddings";
    let patch = format!("{embeddings}.patch_embedding.weight");
    image.ordered(&patch, "patch.weight", &[d, 3, side, side], Order::Kernel);
    image.whole(&format!("{embeddings}.class_embedding"), "class", &[d]);
    let positions = format!("{embeddings}.position_embedding.weight");
    image.whole(&positions, "positions.weight", &[spec.max_tokens(), d]);
    image.norm("vision_model.pre_layrnorm", "input_norm", d);
    for i in 0..spec.layers {
        image.block(i, "vision_model.encoder.layers", &BLOCK, [d, spec.mlp.width]);
    }
    image.norm("vision_model.post_layernorm", "output_norm", d);
    image.whole("visual_projection.weight", "head.0.weight", &[pair.width, d]);
    joined(text, image)
}

/// Tensors of both towers and the temperature.
pub(crate) fn joined(text: Laying, image: Laying) -> Vec<ForeignTensor> {
    let mut tensors = text.finish();
    tensors.extend(image.finish());
    let (name, content) = ("logit_scale".to_owned(), Content::LogScale);
    tensors.push(ForeignTensor { name, shape: Vec::new(), content });
    tensors
}
