//! Static embeddings: a table of tokens, the mean of whose rows is a text's vector.
//!
//! In:  model2vec's folder (`config.json`, `model.safetensors` with `embeddings`, perhaps `mapping` and
//!      `weights`), or sentence-transformers' `StaticEmbedding` (`modules.json`, `embedding.weight`).
//! Out: a [`Plan`] with a text tower that has no layers.
//! Source: Tulkens and van Dongen 2024 (model2vec). Parity: `testdata/parity/static`.
//!
//! The two libraries read one folder differently: model2vec leaves unknown tokens out and cuts by characters
//! first. The name of the table tells which one wrote it. Either way a text's vector is scaled to unit
//! length, as every embedding here is, also where the library would leave the mean as it is; a text
//! without tokens has zeros.

use std::{collections::BTreeMap, path::Path};

use conjoin_engine::Activation;
use conjoin_input::{BareTokens, InputContract, MAX_TEXT_BYTES, TextContract, Tokenizer};
use serde_json::Value;

use super::{
    Plan, Reading,
    config::Log,
    folder::{Settings, last_part, module_kinds},
    model_card,
};
use crate::{
    AttentionRule, EncoderInput, EncoderSpec, Matryoshka, MlpRule, ModelErrorKind, NormPlacement,
    NormRule, OutputNorm, Pooling, QkvBias, Source, Weights, checkpoint::read_limited,
};

/// Whether a folder holds one.
pub(crate) fn is_here(folder: &Path) -> Result<bool, ModelErrorKind> {
    let config = Settings::read(&folder.join("config.json"))?;
    Ok(config.text("model_type") == Some("model2vec") || module(folder)?.is_some())
}

/// The path of the module with the table.
fn module(folder: &Path) -> Result<Option<String>, ModelErrorKind> {
    let modules = module_kinds(folder)?;
    let first = modules.into_iter().next();
    Ok(first.filter(|(kind, _)| last_part(kind) == "StaticEmbedding").map(|(_, path)| path))
}

pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    check_modules(folder)?;
    let inner = folder.join(module(folder)?.unwrap_or_default());
    let weights = Weights::open_folder(&inner)?;
    let tokenizer = Tokenizer::from_json(&read_limited(&inner.join("tokenizer.json"))?)?;
    let model2vec = weights.has("embeddings");
    let source = if model2vec {
        log.family("static embeddings of model2vec");
        let there = |name: &str| weights.has(name).then(|| name.to_owned());
        let (mapping, factors) = (there("mapping"), there("weights"));
        Source::TokenRows { table: "embeddings".to_owned(), mapping, factors }
    } else {
        log.family("sentence-transformers' static embeddings");
        Source::Same("embedding.weight".to_owned())
    };
    let text = if model2vec {
        model2vec_contract(folder, &tokenizer, log)?
    } else {
        sentence_transformers_contract(folder, &tokenizer, log)?
    };
    let table = if model2vec { "embeddings" } else { "embedding.weight" };
    let spec = table_spec(&weights, table)?;
    Ok(Plan {
        text: Some(spec),
        image: None,
        contract: InputContract { text: Some(text), image: None },
        tokenizer: Some(tokenizer),
        names: vec![("text.tokens.weight".to_owned(), source)],
        unused: Vec::new(),
        log_scale: 0.0,
        score_bias: 0.0,
        matryoshka: Matryoshka::default(),
        card: model_card::card(folder)?,
        weights,
        reading: Reading::default(),
    })
}

/// A table and, perhaps, scaling to unit length.
fn check_modules(folder: &Path) -> Result<(), ModelErrorKind> {
    let modules = module_kinds(folder)?;
    match modules.iter().skip(1).find(|(kind, _)| last_part(kind) != "Normalize") {
        None => Ok(()),
        Some((kind, _)) => Err(ModelErrorKind::Unsupported {
            file: "modules.json".to_owned(),
            key: "type".to_owned(),
            found: format!("`{kind}`"),
            supported: "StaticEmbedding and Normalize".to_owned(),
        }),
    }
}

/// model2vec reads so many tokens where its configuration says nothing.
const MODEL2VEC_TOKENS: usize = 512;

fn model2vec_contract(
    folder: &Path,
    tokenizer: &Tokenizer,
    log: &Log,
) -> Result<TextContract, ModelErrorKind> {
    let config = Settings::read(&folder.join("config.json"))?;
    let (limit, because) = match config.stated("max_length") {
        None => (Some(MODEL2VEC_TOKENS), "config.json: max_length is absent".to_owned()),
        Some(Value::Null) => (None, "config.json: max_length is null".to_owned()),
        Some(value) => match config.count("max_length") {
            Some(n) => (Some(n), format!("config.json: max_length is {n}")),
            None => {
                let supported = "a whole number or null";
                return Err(config.unsupported("max_length", &value.to_string(), supported));
            }
        },
    };
    let max_chars = limit.map(|n| n.saturating_mul(tokenizer.median_token_chars()));
    let max_tokens = limit.unwrap_or(MAX_TEXT_BYTES).min(MAX_TEXT_BYTES);
    let words = max_chars.map_or_else(String::new, |n| format!(", of the first {n} characters"));
    log.note("most tokens", format!("{max_tokens}{words}"), because);
    log.note("unknown tokens", "left out", "model2vec's rule");
    let bare = Some(BareTokens { skip_unknown: true, max_chars });
    Ok(TextContract { max_tokens, padded: false, bare, prompts: BTreeMap::new() })
}

fn sentence_transformers_contract(
    folder: &Path,
    tokenizer: &Tokenizer,
    log: &Log,
) -> Result<TextContract, ModelErrorKind> {
    let stored = tokenizer.stored_limit();
    let max_tokens = stored.unwrap_or(MAX_TEXT_BYTES).min(MAX_TEXT_BYTES);
    log.note("most tokens", max_tokens, format!("tokenizer.json: truncation is {stored:?}"));
    log.note("unknown tokens", "looked up like others", "sentence-transformers' rule");
    let library = Settings::read(&folder.join("config_sentence_transformers.json"))?;
    let prompts = library.at(&["prompts"]).and_then(Value::as_object);
    let prompts = prompts.into_iter().flatten();
    let prompts =
        prompts.filter_map(|(task, words)| Some((task.clone(), words.as_str()?.to_owned())));
    let bare = Some(BareTokens { skip_unknown: false, max_chars: None });
    let prompts = prompts.filter(|(_, words)| !words.is_empty()).collect();
    Ok(TextContract { max_tokens, padded: false, bare, prompts })
}

/// An encoder without layers: the mean of looked-up rows, at unit length.
fn table_spec(weights: &Weights, table: &str) -> Result<EncoderSpec, ModelErrorKind> {
    let shape = weights.shape(table)?;
    let &[rows, width] = shape else {
        let (name, expected) = (table.to_owned(), vec![0, 0]);
        return Err(ModelErrorKind::Shape { name, found: shape.to_vec(), expected });
    };
    let vocabulary = match weights.shape("mapping") {
        Ok(mapping) => mapping.iter().product(),
        Err(_) => rows,
    };
    // A table has no longest text; no text has more tokens than bytes.
    let max_tokens = MAX_TEXT_BYTES;
    Ok(EncoderSpec {
        input: EncoderInput::Tokens { vocabulary, max_tokens, positions: false, types: 0 },
        input_norm: false,
        width,
        layers: 0,
        // Nothing below has a part in a model without layers.
        attention: AttentionRule {
            qkv_bias: QkvBias::None,
            out_bias: false,
            ..AttentionRule::plain(1)
        },
        mlp: MlpRule {
            up_bias: false,
            down_bias: false,
            ..MlpRule::plain(1, Activation::Identity)
        },
        norm: NormRule { placement: NormPlacement::Pre, eps: 1e-5, bias: false, first: false },
        layer_scale: false,
        output_norm: OutputNorm::None,
        pooling: Pooling::Mean,
        head: Vec::new(),
        normalize: true,
    })
}
