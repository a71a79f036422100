//! NomicBERT: post-norm, rotary positions, SiLU-gated MLP; by transformers' keys and names, and by those
//! of its publisher's own code.
//!
//! In:  `config.json` with `model_type` `nomic_bert`. Out: the encoder's spec and names.
//! Source: Nussbaum et al. 2024. Parity: `testdata/parity/sentence_encoders`, `nomic_bert`,
//! `nomic_bert_original`.

use conjoin_engine::{Activation, Mask, Pairing};

use super::{
    config::Config,
    text::{Body, Names, activation, default_rope},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, MlpRule, ModelErrorKind, NormPlacement, NormRule,
    OutputNorm, Pooling, QkvBias, Rotary, RotaryAxes, ScoreBias,
};

/// Reads the configuration.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    refuse_variants(config)?;
    let size = |ours: &str, first: &str, default: usize| match config.maybe_usize(ours)? {
        Some(n) => config.usize_or(first, n).map(|_| n),
        None => config.usize_or(first, default),
    };
    let layers = size("num_hidden_layers", "n_layer", 12)?;
    let theta = theta(config)?;
    let eps = config.maybe_f32("layer_norm_epsilon")?.unwrap_or(1e-12);
    let spec = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", 30_528)?,
            max_tokens: max_tokens(config)?,
            positions: false,
            types: config.usize_or("type_vocab_size", 2)?,
        },
        input_norm: true,
        width: size("hidden_size", "n_embd", 768)?,
        layers,
        attention: AttentionRule {
            heads: size("num_attention_heads", "n_head", 12)?,
            qkv_bias: QkvBias::None,
            out_bias: false,
            inner_norm: false,
            mask: Mask::Bidirectional,
            score_bias: ScoreBias::None,
            rotary: Some(Rotary { pairing: Pairing::Halves, theta, axes: RotaryAxes::Sequence }),
            local: None,
        },
        mlp: MlpRule {
            width: size("intermediate_size", "n_inner", 3072)?,
            activation: gate(config)?,
            gated: true,
            up_bias: false,
            down_bias: false,
            inner_norm: false,
        },
        norm: NormRule {
            placement: NormPlacement::Post,
            eps: config.f32_or("layer_norm_eps", eps)?,
            bias: true,
            first: true,
        },
        layer_scale: false,
        output_norm: OutputNorm::None,
        pooling: Pooling::First,
        head: Vec::new(),
        normalize: true,
    };
    config.only("head_dim", &[(spec.width / spec.attention.heads.max(1)).into()])?;
    let mut body = Body::new(spec, publishers_names(layers), &["pooler.", "cls."]);
    body.limited = config.has("rotary_scaling_factor");
    Ok(body.or(native_names(layers)).with_base("nomic_bert.").with_base("bert."))
}

/// The publisher's code can do more than its models use.
fn refuse_variants(config: &Config) -> Result<(), ModelErrorKind> {
    config.ignore(&IGNORED);
    for key in [
        "causal",
        "prenorm",
        "parallel_block",
        "parallel_block_tied_norm",
        "use_rms_norm",
        "rotary_emb_interleaved",
        "qkv_proj_bias",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
        "scale_attn_by_inverse_layer_idx",
    ] {
        config.only(key, &[false.into()])?;
    }
    config.only("scale_attn_weights", &[true.into()])?;
    config.only("rotary_emb_scale_base", &[])?;
    config.only("rotary_emb_fraction", &[1.0.into(), 1.into()])?;
    config.only("position_embedding_type", &["rope".into(), "rotary".into()])?;
    config.only("num_experts", &[0.into()])?;
    config.only("moe_every_n_layers", &[0.into()])
}

/// Keys of training, and of GPT-2's configuration, which the publisher's began as.
const IGNORED: [&str; 21] = [
    "attn_pdrop",
    "dense_seq_output",
    "embd_pdrop",
    "expert_choice_router",
    "fused_bias_fc",
    "fused_dropout_add_ln",
    "last_layer_subset",
    "pad_vocab_size_multiple",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "use_flash_attn",
    "use_xentropy",
    "ffn_div",
    "moe_normalize_expert_weights",
    "moe_top_k",
    "num_shared_experts",
];

fn gate(config: &Config) -> Result<Activation, ModelErrorKind> {
    match config.maybe_text("activation_function")? {
        None => activation(config, "hidden_act", "silu"),
        Some("swiglu") => Ok(Activation::Silu),
        Some(_) => Err(config.unsupported("activation_function", "swiglu")),
    }
}

fn theta(config: &Config) -> Result<f32, ModelErrorKind> {
    let section = config.section("rope_parameters")?;
    let new = section.map(|section| default_rope(&section)).transpose()?.flatten();
    config.only("rope_scaling", &[])?;
    let first = config.f32_or("rotary_emb_base", 1000.0)?;
    Ok(new.unwrap_or(first))
}

/// With a scaling factor, longer texts than those of the training would turn the frequencies; this
/// build does not, so they are cut there.
fn max_tokens(config: &Config) -> Result<usize, ModelErrorKind> {
    let trained = config.maybe_usize("max_trained_positions")?;
    let stated = config.maybe_usize("n_positions")?.unwrap_or(2048);
    let stated = config.usize_or("max_position_embeddings", stated)?;
    match (config.maybe_f32("rotary_scaling_factor")?, trained) {
        (None, _) => Ok(stated),
        (Some(_), Some(trained)) => {
            let why = "max_trained_positions";
            config.note("most tokens", format!("{trained}: no scaled frequencies"), why);
            Ok(trained.min(stated))
        }
        (Some(_), None) => Err(config.unsupported("rotary_scaling_factor", "no scaling")),
    }
}

fn publishers_names(layers: usize) -> Names {
    let mut names = embeddings("emb_ln");
    for i in 0..layers {
        let ours = |part: &str| format!("layers.{i}.{part}");
        let theirs = |part: &str| format!("encoder.layers.{i}.{part}");
        names.weight(&ours("attention.qkv"), &theirs("attn.Wqkv"));
        names.weight(&ours("attention.out"), &theirs("attn.out_proj"));
        names.affine(&ours("attention.norm"), &theirs("norm1"));
        let up = [theirs("mlp.fc12"), theirs("mlp.fc11")];
        names.rows(&ours("mlp.up"), &[&up[0], &up[1]], "weight");
        names.weight(&ours("mlp.down"), &theirs("mlp.fc2"));
        names.affine(&ours("mlp.norm"), &theirs("norm2"));
    }
    names
}

fn native_names(layers: usize) -> Names {
    let mut names = embeddings("embeddings.LayerNorm");
    for i in 0..layers {
        let name = |part: &str| format!("layers.{i}.{part}");
        let qkv = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
        names.rows(&name("attention.qkv"), &qkv.each_ref().map(String::as_str), "weight");
        names.weight(&name("attention.out"), &name("self_attn.o_proj"));
        names.affine(&name("attention.norm"), &name("post_attention_layernorm"));
        let up = [name("mlp.gate_proj"), name("mlp.up_proj")];
        names.rows(&name("mlp.up"), &[&up[0], &up[1]], "weight");
        names.weight(&name("mlp.down"), &name("mlp.down_proj"));
        names.affine(&name("mlp.norm"), &name("post_mlp_layernorm"));
    }
    names
}

fn embeddings(norm: &str) -> Names {
    let mut names = Names::default();
    names.weight("tokens", "embeddings.word_embeddings");
    names.weight("types", "embeddings.token_type_embeddings");
    names.affine("input_norm", norm);
    names
}
