//! Tokeniser files for transformers.
//!
//! In:  the model's tokeniser and its limit; the original `tokenizer_config.json` where there was one.
//! Out: `tokenizer.json`, `tokenizer_config.json`.

use conjoin_input::MAX_TEXT_BYTES;
use serde_json::{Value, json};

use super::{Folder, not_expressible};
use crate::{Model, ModelErrorKind, Origin};

/// Adds the tokeniser's files.
pub(crate) fn add(
    folder: &mut Folder,
    model: &Model,
    origin: Option<&Origin>,
) -> Result<(), ModelErrorKind> {
    let (Some(tokenizer), Some(contract)) = (&model.parts().tokenizer, &model.spec().contract.text)
    else {
        return Ok(());
    };
    let mut document = tokenizer.to_json();
    if contract.bare.is_some_and(|bare| !bare.skip_unknown) {
        document = truncated(&document, contract.max_tokens)?;
    }
    let stored = origin.and_then(|origin| origin.files.get("tokenizer_config.json"));
    let mut config = match stored {
        Some(text) => parsed("tokenizer_config.json", text)?,
        None => fresh(&document)?,
    };
    config["model_max_length"] = contract.max_tokens.into();
    folder.put("tokenizer.json", document);
    folder.json("tokenizer_config.json", &config);
    Ok(())
}

pub(crate) fn parsed(file: &str, text: &str) -> Result<Value, ModelErrorKind> {
    let file = file.to_owned();
    serde_json::from_str(text).map_err(|source| ModelErrorKind::Json { file, source })
}

/// The id that fills the shorter texts of a batch, and its token.
pub(crate) fn padding(document: &[u8]) -> Result<(u64, String), ModelErrorKind> {
    let document = std::str::from_utf8(document).unwrap_or_default();
    let padding = &parsed("tokenizer.json", document)?["padding"];
    match (padding["pad_id"].as_u64(), padding["pad_token"].as_str()) {
        (Some(id), Some(token)) if !token.is_empty() => Ok((id, token.to_owned())),
        _ => Err(not_expressible("the tokeniser's padding", "no token to fill texts with")),
    }
}

/// Static embeddings know no limit but that of the tokeniser's own file.
fn truncated(document: &[u8], max_tokens: usize) -> Result<Vec<u8>, ModelErrorKind> {
    let mut document = parsed("tokenizer.json", std::str::from_utf8(document).unwrap_or_default())?;
    if max_tokens < MAX_TEXT_BYTES {
        document["truncation"] = json!({
            "direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0,
        });
    }
    Ok(document.to_string().into_bytes())
}

fn fresh(document: &[u8]) -> Result<Value, ModelErrorKind> {
    let (_, token) = padding(document)?;
    Ok(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": token,
        "clean_up_tokenization_spaces": false,
    }))
}
