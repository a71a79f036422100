//! CLIP's two towers in Hugging Face's layout.
//!
//! In:  the keys of `config.json`'s `text_config` and `vision_config`. Out: specs and name maps.
//! Parity: `testdata/parity/towers/clip_text_tiny`, `testdata/parity/towers/vit_tiny`.

use conjoin_engine::Mask;
use serde::Deserialize;

use super::text::activation_named;
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, MlpRule, ModelErrorKind, NormPlacement, NormRule,
    OutputNorm, Pooling, QkvBias, ScoreBias, weights::Source,
};

#[derive(Debug, Deserialize)]
struct TowerConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    projection_dim: usize,
}

#[derive(Debug, Deserialize)]
struct TextConfig {
    vocab_size: usize,
    max_position_embeddings: usize,
}

#[derive(Debug, Deserialize)]
struct VisionConfig {
    image_size: usize,
    patch_size: usize,
}

fn parse<'a, T: Deserialize<'a>>(config: &'a [u8]) -> Result<T, ModelErrorKind> {
    let file = "config.json".to_owned();
    serde_json::from_slice(config).map_err(|source| ModelErrorKind::Json { file, source })
}

/// The spec of the text tower. Texts end with the end-of-text token, so pooling takes the last one.
///
/// # Errors
/// When a key is missing or has a value this build does not implement.
pub fn text_spec(config: &[u8]) -> Result<EncoderSpec, ModelErrorKind> {
    let text: TextConfig = parse(config)?;
    let input = EncoderInput::Tokens {
        vocabulary: text.vocab_size,
        max_tokens: text.max_position_embeddings,
        positions: true,
        types: 0,
    };
    let causal = Towards { input, input_norm: false, mask: Mask::Causal, pooling: Pooling::Last };
    common(parse(config)?, causal)
}

/// The spec of the vision tower.
///
/// # Errors
/// When a key is missing or has a value this build does not implement.
pub fn vision_spec(config: &[u8]) -> Result<EncoderSpec, ModelErrorKind> {
    let vision: VisionConfig = parse(config)?;
    let input = EncoderInput::Patches {
        image_size: vision.image_size,
        patch_size: vision.patch_size,
        bias: false,
        class_token: true,
    };
    let seeing =
        Towards { input, input_norm: true, mask: Mask::Bidirectional, pooling: Pooling::First };
    common(parse(config)?, seeing)
}

/// What differs between the two towers.
struct Towards {
    input: EncoderInput,
    input_norm: bool,
    mask: Mask,
    pooling: Pooling,
}

fn common(config: TowerConfig, tower: Towards) -> Result<EncoderSpec, ModelErrorKind> {
    let activation =
        activation_named(&config.hidden_act).ok_or_else(|| ModelErrorKind::Unsupported {
            file: "config.json".to_owned(),
            key: "hidden_act".to_owned(),
            found: format!("`{}`", config.hidden_act),
            supported: "gelu or quick_gelu".to_owned(),
        })?;
    let spec = EncoderSpec {
        input: tower.input,
        input_norm: tower.input_norm,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        attention: AttentionRule {
            heads: config.num_attention_heads,
            qkv_bias: QkvBias::All,
            out_bias: true,
            inner_norm: false,
            mask: tower.mask,
            score_bias: ScoreBias::None,
            rotary: None,
            local: None,
        },
        mlp: MlpRule {
            width: config.intermediate_size,
            activation,
            gated: false,
            up_bias: true,
            down_bias: true,
            inner_norm: false,
        },
        norm: NormRule {
            placement: NormPlacement::Pre,
            eps: config.layer_norm_eps,
            bias: true,
            first: true,
        },
        layer_scale: false,
        output_norm: OutputNorm::Tokens,
        pooling: tower.pooling,
        head: Vec::new(),
        normalize: true,
    };
    Ok(spec.projected(config.projection_dim))
}

fn same(ours: &str, theirs: &str) -> (String, Source) {
    (ours.to_owned(), Source::Same(theirs.to_owned()))
}

fn norm(map: &mut Vec<(String, Source)>, ours: &str, theirs: &str) {
    for part in ["weight", "bias"] {
        map.push(same(&format!("{ours}.{part}"), &format!("{theirs}.{part}")));
    }
}

/// Our names to those of the text tower.
#[must_use]
pub fn text_names(layers: usize) -> Vec<(String, Source)> {
    let mut map = vec![
        same("tokens.weight", "text_model.embeddings.token_embedding.weight"),
        same("positions.weight", "text_model.embeddings.position_embedding.weight"),
        same("head.0.weight", "text_projection.weight"),
    ];
    norm(&mut map, "output_norm", "text_model.final_layer_norm");
    blocks(&mut map, "text_model", layers);
    map
}

/// Our names to those of the vision tower.
#[must_use]
pub fn vision_names(layers: usize) -> Vec<(String, Source)> {
    let patch = "vision_model.embeddings.patch_embedding.weight".to_owned();
    let mut map = vec![
        ("patch.weight".to_owned(), Source::PatchKernel(patch)),
        same("class", "vision_model.embeddings.class_embedding"),
        same("positions.weight", "vision_model.embeddings.position_embedding.weight"),
        same("head.0.weight", "visual_projection.weight"),
    ];
    norm(&mut map, "input_norm", "vision_model.pre_layrnorm");
    norm(&mut map, "output_norm", "vision_model.post_layernorm");
    blocks(&mut map, "vision_model", layers);
    map
}

fn blocks(map: &mut Vec<(String, Source)>, tower: &str, layers: usize) {
    for i in 0..layers {
        for part in ["weight", "bias"] {
            let theirs = |name: &str| format!("{tower}.encoder.layers.{i}.{name}.{part}");
            let mut put = |ours: &str, source| {
                map.push((format!("layers.{i}.{ours}.{part}"), source));
            };
            let qkv = ["q", "k", "v"].map(|q| theirs(&format!("self_attn.{q}_proj")));
            put("attention.qkv", Source::Rows(qkv.to_vec()));
            put("attention.out", Source::Same(theirs("self_attn.out_proj")));
            put("attention.norm", Source::Same(theirs("layer_norm1")));
            put("mlp.up", Source::Same(theirs("mlp.fc1")));
            put("mlp.down", Source::Same(theirs("mlp.fc2")));
            put("mlp.norm", Source::Same(theirs("layer_norm2")));
        }
    }
}
