//! MPNet in transformers' layout: BERT with learned scores for distances, shared by all layers.
//!
//! In:  `config.json` with `model_type` `mpnet`. Out: the encoder's spec and names.
//! Source: Song et al. 2020. Parity: `testdata/parity/sentence_encoders/mpnet`.

use super::{
    bert,
    config::Config,
    text::{Body, Names},
};
use crate::{EncoderInput, EncoderSpec, ModelErrorKind, ScoreBias};

/// The reference counts positions behind a padding id of 1, whatever the configuration says.
const FIRST_POSITION: usize = 2;
/// The reference computes with these, whatever the configuration says.
const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

/// Reads the configuration.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    bert::plain_encoder(config)?;
    config.only("relative_attention_num_buckets", &[BUCKETS.into()])?;
    let layers = config.usize_or("num_hidden_layers", 12)?;
    let rows = config.usize_or("max_position_embeddings", 512)?;
    config.note("text positions", format!("count from {FIRST_POSITION}"), "model_type");
    let mut spec = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", 30_527)?,
            max_tokens: rows.saturating_sub(FIRST_POSITION),
            positions: true,
            types: 0,
        },
        ..bert::post_norm(config, layers)?
    };
    spec.attention.score_bias = ScoreBias::Buckets { buckets: BUCKETS, max_distance: MAX_DISTANCE };
    Ok(Body::new(spec, names(layers), &UNUSED).with_base("mpnet."))
}

/// A buffer, and heads for other tasks.
const UNUSED: [&str; 4] = ["embeddings.position_ids", "pooler.", "lm_head.", "classifier."];

fn names(layers: usize) -> Names {
    let mut names = Names::default();
    names.weight("tokens", "embeddings.word_embeddings");
    names.weight("positions", "embeddings.position_embeddings");
    names.rows_from("positions.weight", FIRST_POSITION);
    names.weight("distances", "encoder.relative_attention_bias");
    names.affine("input_norm", "embeddings.LayerNorm");
    for i in 0..layers {
        let ours = |part: &str| format!("layers.{i}.{part}");
        let theirs = |part: &str| format!("encoder.layer.{i}.{part}");
        let qkv = ["q", "k", "v"].map(|part| theirs(&format!("attention.attn.{part}")));
        names.affine_rows(&ours("attention.qkv"), &qkv.each_ref().map(String::as_str));
        names.affine(&ours("attention.out"), &theirs("attention.attn.o"));
        names.affine(&ours("attention.norm"), &theirs("attention.LayerNorm"));
        names.affine(&ours("mlp.up"), &theirs("intermediate.dense"));
        names.affine(&ours("mlp.down"), &theirs("output.dense"));
        names.affine(&ours("mlp.norm"), &theirs("output.LayerNorm"));
    }
    names
}
