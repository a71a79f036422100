//! BERT in transformers' layout.
//!
//! In:  `config.json` with `model_type` `bert`. Out: the encoder's spec and names.
//! Source: Devlin et al. 2019. Parity: `testdata/parity/minilm`, `testdata/parity/sentence_encoders`.

use super::{
    config::Config,
    text::{Body, Names, activation},
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, MlpRule, ModelErrorKind, NormPlacement, NormRule,
    OutputNorm, Pooling,
};

/// Reads the configuration.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    plain_encoder(config)?;
    let layers = config.usize_or("num_hidden_layers", 12)?;
    let spec = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", 30_522)?,
            max_tokens: config.usize_or("max_position_embeddings", 512)?,
            positions: true,
            types: config.usize_or("type_vocab_size", 2)?,
        },
        ..post_norm(config, layers)?
    };
    Ok(Body::new(spec, Names(names(layers)), &UNUSED).with_base("bert."))
}

/// Refuses positions by another rule, and decoders.
pub(crate) fn plain_encoder(config: &Config) -> Result<(), ModelErrorKind> {
    config.ignore(&["chunk_size_feed_forward", "cross_attention_hidden_size"]);
    config.only("position_embedding_type", &["absolute".into()])?;
    config.only("pruned_heads", &[serde_json::json!({})])?;
    config.only("is_decoder", &[false.into()])?;
    config.only("add_cross_attention", &[false.into()])
}

/// Tensors that the encoder does not use: a buffer, and heads for other tasks.
const UNUSED: [&str; 3] = ["embeddings.position_ids", "pooler.", "cls."];

/// A post-norm encoder with biases everywhere, as BERT and its kin; the input is BERT's defaults.
pub(crate) fn post_norm(config: &Config, layers: usize) -> Result<EncoderSpec, ModelErrorKind> {
    Ok(EncoderSpec {
        input: EncoderInput::Tokens { vocabulary: 0, max_tokens: 0, positions: true, types: 0 },
        input_norm: true,
        width: config.usize_or("hidden_size", 768)?,
        layers,
        attention: AttentionRule::plain(config.usize_or("num_attention_heads", 12)?),
        mlp: MlpRule::plain(
            config.usize_or("intermediate_size", 3072)?,
            activation(config, "hidden_act", "gelu")?,
        ),
        norm: NormRule::plain(NormPlacement::Post, config.f32_or("layer_norm_eps", 1e-12)?),
        layer_scale: false,
        output_norm: OutputNorm::None,
        pooling: Pooling::First,
        head: Vec::new(),
        normalize: true,
    })
}

/// Our names to BERT's.
pub(crate) fn names(layers: usize) -> Vec<(String, crate::Source)> {
    let mut names = Names::default();
    names.weight("tokens", "embeddings.word_embeddings");
    names.weight("positions", "embeddings.position_embeddings");
    names.weight("types", "embeddings.token_type_embeddings");
    names.affine("input_norm", "embeddings.LayerNorm");
    for i in 0..layers {
        let ours = |part: &str| format!("layers.{i}.{part}");
        let theirs = |part: &str| format!("encoder.layer.{i}.{part}");
        let qkv = ["query", "key", "value"].map(|part| theirs(&format!("attention.self.{part}")));
        names.affine_rows(&ours("attention.qkv"), &qkv.each_ref().map(String::as_str));
        names.affine(&ours("attention.out"), &theirs("attention.output.dense"));
        names.affine(&ours("attention.norm"), &theirs("attention.output.LayerNorm"));
        names.affine(&ours("mlp.up"), &theirs("intermediate.dense"));
        names.affine(&ours("mlp.down"), &theirs("output.dense"));
        names.affine(&ours("mlp.norm"), &theirs("output.LayerNorm"));
    }
    names.0
}
