//! jina-embeddings-v2 and -v3 as models of their own.
//!
//! In:  `config.json` with `model_type` `bert` and `position_embedding_type` `alibi` (v2), `xlm-roberta`
//!      and `rotary`, or `jina_embeddings_v3` (v3). Out: the encoder's spec and names.
//! Not here: the names of the tensors (`jina_text`).
//! Source: Günther et al. 2023, Sturua et al. 2024. Parity: `testdata/parity/sentence_encoders`,
//! `jina_bert_v2`, `jina_embeddings_v3`, `jina_embeddings_v3_original`.

use conjoin_engine::{Activation, Pairing};
use serde_json::Value;

use super::{
    Options, bert,
    config::Config,
    jina_text::{self, Kind, Overrides, Parametrised},
    text::{Body, default_rope},
};
use crate::{EncoderInput, EncoderSpec, ModelErrorKind, Rotary, RotaryAxes, ScoreBias, Weights};

/// Which of Jina's encoders a configuration is of, if it is one.
pub(crate) fn kind(config: &Config) -> Result<Option<Kind>, ModelErrorKind> {
    let positions = config.get("position_embedding_type").and_then(Value::as_str);
    Ok(match (config.text("model_type")?, positions) {
        ("bert", Some("alibi")) => Some(Kind::JinaBert),
        ("jina_embeddings_v3", _) | ("xlm-roberta", Some("rotary")) => Some(Kind::JinaXlmRoberta),
        _ => None,
    })
}

/// Reads the configuration; an adapter that is asked for is added to the weights when they are read.
pub(crate) fn body(
    kind: Kind,
    config: &Config,
    weights: &Weights,
    options: &Options,
) -> Result<Body, ModelErrorKind> {
    let spec = match kind {
        Kind::JinaBert => jina_bert(config)?,
        Kind::JinaXlmRoberta => jina_xlm_roberta(config)?,
    };
    let adapter = adapter(config, options)?;
    let prefixes = ["roberta.", "bert."];
    let there = |prefix: &&&str| weights.names().any(|name| name.starts_with(**prefix));
    let prefix = prefixes.iter().find(there).copied().unwrap_or_default();
    let tensors = Parametrised::new(weights, prefix, adapter);
    let mut told = jina_text::body(kind, &tensors, &Overrides::of(kind))?;
    if told.spec.layers != spec.layers {
        let stored = format!("the {} layers that are stored", told.spec.layers);
        return Err(config.unsupported("num_hidden_layers", &stored));
    }
    let heads = ["lm_head.", "classifier.", "cls."].map(str::to_owned);
    told.unused.extend(heads);
    told.spec = spec;
    Ok(told)
}

fn jina_bert(config: &Config) -> Result<EncoderSpec, ModelErrorKind> {
    config.only("is_decoder", &[false.into()])?;
    config.only("add_cross_attention", &[false.into()])?;
    config.ignore(&["attn_implementation", "emb_pooler", "model_max_length"]);
    let mut spec = computed_positions(config, 12, 30_522, 512, 2)?;
    config.note("text positions", "ALiBi", "position_embedding_type");
    spec.attention.score_bias = ScoreBias::Alibi;
    spec.mlp.activation = match config.text("feed_forward_type")? {
        "geglu" => Activation::Gelu,
        "reglu" => Activation::Relu,
        _ => return Err(config.unsupported("feed_forward_type", "geglu or reglu")),
    };
    spec.mlp.gated = true;
    spec.mlp.up_bias = false;
    Ok(spec)
}

fn jina_xlm_roberta(config: &Config) -> Result<EncoderSpec, ModelErrorKind> {
    config.ignore(&IGNORED);
    for key in ["is_decoder", "add_cross_attention", "use_reg_tokens"] {
        config.only(key, &[false.into()])?;
    }
    config.only("rope_scaling", &[])?;
    let section = config.section("rope_parameters")?;
    let new = section.map(|section| default_rope(&section)).transpose()?.flatten();
    let first = config.maybe_f32("rotary_emb_base")?;
    let default = match config.text("model_type")? {
        "jina_embeddings_v3" => 20_000.0,
        _ => 10_000.0,
    };
    let theta = new.or(first).unwrap_or(default);
    let mut spec = computed_positions(config, 24, 250_002, 8194, 1)?;
    config.note("text positions", format!("rotary, base {theta}"), "position_embedding_type");
    let pairing = Pairing::Halves;
    spec.attention.rotary = Some(Rotary { pairing, theta, axes: RotaryAxes::Sequence });
    Ok(spec)
}

/// Keys of training, and of what callers choose.
const IGNORED: [&str; 8] = [
    "emb_pooler",
    "load_trained_adapters",
    "lora_dropout_p",
    "lora_main_params_trainable",
    "lora_prompts",
    "position_embedding_type",
    "task_instructions",
    "use_flash_attn",
];

/// A post-norm encoder without a table of positions; the numbers are the class's defaults.
fn computed_positions(
    config: &Config,
    layers: usize,
    vocabulary: usize,
    max_tokens: usize,
    types: usize,
) -> Result<EncoderSpec, ModelErrorKind> {
    let layers = config.usize_or("num_hidden_layers", layers)?;
    Ok(EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", vocabulary)?,
            max_tokens: config.usize_or("max_position_embeddings", max_tokens)?,
            positions: false,
            types: config.usize_or("type_vocab_size", types)?,
        },
        ..bert::post_norm(config, layers)?
    })
}

/// Which adapter is asked for, and what it is multiplied by.
fn adapter(config: &Config, options: &Options) -> Result<Option<(usize, f32)>, ModelErrorKind> {
    let key = "lora_adaptations";
    let rank = config.f32_or("lora_rank", 4.0)?;
    let scale = config.f32_or("lora_alpha", 1.0)? / rank.max(1.0);
    let Some(stored) = config.get(key) else {
        let none = |found: &String| Err(ModelErrorKind::NoAdapter { found: found.clone() });
        return options.adapter.as_ref().map_or(Ok(None), none);
    };
    let wrong = || config.unsupported(key, "a list of names");
    let tasks: Option<Vec<&str>> =
        stored.as_array().ok_or_else(wrong)?.iter().map(Value::as_str).collect();
    let Some(wanted) = &options.adapter else {
        config.note("text adapter", "none, as by default", key);
        return Ok(None);
    };
    let index =
        tasks.ok_or_else(wrong)?.iter().position(|task| task == wanted).ok_or_else(|| {
            config.unsupported(key, &format!("these adapters; `{wanted}` was asked for"))
        })?;
    config.note("text adapter", wanted, key);
    Ok(Some((index, scale)))
}
