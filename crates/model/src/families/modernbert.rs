//! ModernBERT in transformers' layout: pre-norm, rotary positions, most layers see a window only.
//!
//! In:  `config.json` with `model_type` `modernbert`. Out: the encoder's spec and names.
//! Source: Warner et al. 2024. Parity: `testdata/parity/sentence_encoders/modernbert`.

use conjoin_engine::{Mask, Pairing};
use serde_json::Value;

use super::{
    config::Config,
    text::{Body, Names, activation, default_rope},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, Local, MlpRule, ModelErrorKind, NormPlacement,
    NormRule, OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes, ScoreBias,
};

/// Reads the configuration.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    config.ignore(&IGNORED);
    config.only("position_embedding_type", &["absolute".into(), "rope".into()])?;
    let layers = config.usize_or("num_hidden_layers", 22)?;
    let norm_bias = config.flag_or("norm_bias", false)?;
    let bias = config.flag_or("attention_bias", false)?;
    let mlp_bias = config.flag_or("mlp_bias", false)?;
    let (theta, local_theta) = thetas(config)?;
    let spec = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", 50_368)?,
            max_tokens: config.usize_or("max_position_embeddings", 8192)?,
            positions: false,
            types: 0,
        },
        input_norm: true,
        width: config.usize_or("hidden_size", 768)?,
        layers,
        attention: AttentionRule {
            heads: config.usize_or("num_attention_heads", 12)?,
            qkv_bias: if bias { QkvBias::All } else { QkvBias::None },
            out_bias: bias,
            inner_norm: false,
            mask: Mask::Bidirectional,
            score_bias: ScoreBias::None,
            rotary: Some(Rotary { pairing: Pairing::Halves, theta, axes: RotaryAxes::Sequence }),
            local: local(config, layers, local_theta)?,
        },
        mlp: MlpRule {
            width: config.usize_or("intermediate_size", 1152)?,
            activation: activation(config, "hidden_activation", "gelu")?,
            gated: true,
            up_bias: mlp_bias,
            down_bias: mlp_bias,
            inner_norm: false,
        },
        norm: NormRule {
            placement: NormPlacement::Pre,
            eps: config.f32_or("norm_eps", 1e-5)?,
            bias: norm_bias,
            first: false,
        },
        layer_scale: false,
        output_norm: OutputNorm::Tokens,
        pooling: Pooling::First,
        head: Vec::new(),
        normalize: true,
    };
    let names = names(&spec);
    Ok(Body::new(spec, names, &UNUSED).with_base("model."))
}

/// Keys of training and of heads for other tasks.
const IGNORED: [&str; 17] = [
    "classifier_activation",
    "classifier_bias",
    "classifier_pooling",
    "cls_token_id",
    "decoder_bias",
    "deterministic_flash_attn",
    "initializer_cutoff_factor",
    "layer_norm_eps",
    "max_window_layers",
    "reference_compile",
    "repad_logits_with_grad",
    "sep_token_id",
    "sparse_pred_ignore_index",
    "sparse_prediction",
    "mask_token_id",
    "sliding_window",
    "use_sliding_window",
];

/// Heads for other tasks.
const UNUSED: [&str; 3] = ["head.", "decoder.", "classifier."];

/// The bases of the rotary frequencies of layers that see everything, and of those that do not.
fn thetas(config: &Config) -> Result<(f32, f32), ModelErrorKind> {
    config.only("rope_scaling", &[])?;
    let sections = config.section("rope_parameters")?;
    let theta = |kind: &str, old: &str, default: f32| {
        let section = sections.as_ref().map(|sections| sections.section(kind)).transpose()?;
        let new = section.flatten().map(|section| default_rope(&section)).transpose()?.flatten();
        let old = config.f32_or(old, default)?;
        Ok::<_, ModelErrorKind>(new.unwrap_or(old))
    };
    let all = theta("full_attention", "global_rope_theta", 160_000.0)?;
    Ok((all, theta("sliding_attention", "local_rope_theta", 10_000.0)?))
}

/// Which layers see a window: told by a list, or in old files by a number.
fn local(config: &Config, layers: usize, theta: f32) -> Result<Option<Local>, ModelErrorKind> {
    let every = config.usize_or("global_attn_every_n_layers", 3)?.max(1);
    let global_every = match config.get("layer_types") {
        None => every,
        Some(kinds) => {
            let wrong = || config.unsupported("layer_types", "full attention in each n-th layer");
            full_every(kinds, layers).ok_or_else(wrong)?
        }
    };
    if global_every == 1 {
        return Ok(None);
    }
    let reach = config.usize_or("local_attention", 128)? / 2;
    config.note("text attention", format!("{reach} tokens to each side"), "local_attention");
    config.note(
        "text attention",
        format!("all in each layer divisible by {global_every}"),
        "layer_types",
    );
    Ok(Some(Local { global_every, reach, theta }))
}

/// The `n` for which every `n`-th layer has full attention and the others have not.
fn full_every(kinds: &Value, layers: usize) -> Option<usize> {
    let kinds: Vec<&str> = kinds.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let full = |i: usize| kinds[i] == "full_attention";
    let known = kinds.iter().all(|kind| ["full_attention", "sliding_attention"].contains(kind));
    let n = (1..layers).find(|i| *i < kinds.len() && full(*i)).unwrap_or(layers).max(1);
    let regular = known && kinds.len() == layers;
    (regular && (0..layers).all(|i| full(i) == i.is_multiple_of(n))).then_some(n)
}

fn names(spec: &EncoderSpec) -> Names {
    let mut names = Names::default();
    names.weight("tokens", "embeddings.tok_embeddings");
    let parts = |bias: bool| if bias { &["weight", "bias"][..] } else { &["weight"] };
    let (norm, attention, mlp) =
        (parts(spec.norm.bias), parts(spec.attention.out_bias), parts(spec.mlp.up_bias));
    names.parts("input_norm", "embeddings.norm", norm);
    names.parts("output_norm", "final_norm", norm);
    for i in 0..spec.layers {
        let mut put = |ours: &str, theirs: &str, parts: &[&str]| {
            names.parts(&format!("layers.{i}.{ours}"), &format!("layers.{i}.{theirs}"), parts);
        };
        if i > 0 {
            put("attention.norm", "attn_norm", norm);
        }
        put("attention.qkv", "attn.Wqkv", attention);
        put("attention.out", "attn.Wo", attention);
        put("mlp.norm", "mlp_norm", norm);
        put("mlp.up", "mlp.Wi", mlp);
        put("mlp.down", "mlp.Wo", mlp);
    }
    names
}
