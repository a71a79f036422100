//! RoBERTa and XLM-RoBERTa in transformers' layout.
//!
//! In:  `config.json` with `model_type` `roberta` or `xlm-roberta`. Out: the encoder's spec and names.
//! Not here: XLM-RoBERTa with rotary positions (`xlm_roberta_flash`).
//! Source: Liu et al. 2019. Parity: `testdata/parity/sentence_encoders`, `roberta`, `xlm_roberta`, `tied`.

use super::{
    bert,
    config::Config,
    text::{Body, Names},
};
use crate::{EncoderInput, EncoderSpec, ModelErrorKind};

/// Reads the configuration.
pub(crate) fn body(config: &Config) -> Result<Body, ModelErrorKind> {
    bert::plain_encoder(config)?;
    let layers = config.usize_or("num_hidden_layers", 12)?;
    let first = config.usize_or("pad_token_id", 1)? + 1;
    config.note("text positions", format!("count from {first}"), "pad_token_id");
    let rows = config.usize_or("max_position_embeddings", 512)?;
    let spec = EncoderSpec {
        input: EncoderInput::Tokens {
            vocabulary: config.usize_or("vocab_size", 50_265)?,
            max_tokens: rows.saturating_sub(first),
            positions: true,
            types: config.usize_or("type_vocab_size", 2)?,
        },
        ..bert::post_norm(config, layers)?
    };
    let mut names = Names(bert::names(layers));
    names.rows_from("positions.weight", first);
    Ok(Body::new(spec, names, &UNUSED).with_base("roberta."))
}

/// A buffer, and heads for other tasks.
const UNUSED: [&str; 4] = ["embeddings.position_ids", "pooler.", "lm_head.", "classifier."];
