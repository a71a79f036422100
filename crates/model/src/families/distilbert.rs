//! DistilBERT in transformers' layout.
//!
//! In:  `config.json` with `model_type` `distilbert`. Out: the encoder's spec and names.
//! Source: Sanh et al. 2019. Parity: `testdata/parity/sentence_encoders/distilbert`.

use super::{
    bert,
    config::Config,
    text::{Body, Names, activation},
};
use crate::{EncoderInput, EncoderSpec, ModelErrorKind};

/// Reads the configuration.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    // Sinusoidal positions are stored like learned ones; the classifiers are not used.
    config.ignore(&["sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout"]);
    let layers = config.usize_or("n_layers", 6)?;
    let mut spec = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", 30_522)?,
            max_tokens: config.usize_or("max_position_embeddings", 512)?,
            positions: true,
            types: 0,
        },
        width: config.usize_or("dim", 768)?,
        ..bert::post_norm(config, layers)?
    };
    spec.attention.heads = config.usize_or("n_heads", 12)?;
    spec.mlp.width = config.usize_or("hidden_dim", 3072)?;
    spec.mlp.activation = activation(config, "activation", "gelu")?;
    // The reference's constant.
    spec.norm.eps = 1e-12;
    Ok(Body::new(spec, names(layers), &UNUSED).with_base("distilbert."))
}

/// Heads for other tasks.
const UNUSED: [&str; 5] =
    ["vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "pre_classifier.", "classifier."];

fn names(layers: usize) -> Names {
    let mut names = Names::default();
    names.weight("tokens", "embeddings.word_embeddings");
    names.weight("positions", "embeddings.position_embeddings");
    names.affine("input_norm", "embeddings.LayerNorm");
    for i in 0..layers {
        let ours = |part: &str| format!("layers.{i}.{part}");
        let theirs = |part: &str| format!("transformer.layer.{i}.{part}");
        let qkv = ["q_lin", "k_lin", "v_lin"].map(|part| theirs(&format!("attention.{part}")));
        names.affine_rows(&ours("attention.qkv"), &qkv.each_ref().map(String::as_str));
        names.affine(&ours("attention.out"), &theirs("attention.out_lin"));
        names.affine(&ours("attention.norm"), &theirs("sa_layer_norm"));
        names.affine(&ours("mlp.up"), &theirs("ffn.lin1"));
        names.affine(&ours("mlp.down"), &theirs("ffn.lin2"));
        names.affine(&ours("mlp.norm"), &theirs("output_layer_norm"));
    }
    names
}
