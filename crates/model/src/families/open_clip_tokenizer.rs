//! open_clip's ways from text to ids.
//!
//! In:  `text_cfg`, and `tokenizer.json` where it names one of transformers' tokenizers. Out: a tokenizer
//!      that cleans first: white space, or case and punctuation. Not here: `ftfy` and HTML entities,
//!      which open_clip repairs before; texts that need no repair get the same ids.

use std::path::Path;

use conjoin_input::Tokenizer;
use serde_json::{Value, json};

use super::config::Config;
use crate::{ModelErrorKind, checkpoint::read_large_json};

const FILE: &str = "tokenizer.json";
/// Size of the vocabulary that open_clip has built in.
const BUILT_IN: usize = 49_408;

pub(crate) fn open(folder: &Path, config: &Config) -> Result<Tokenizer, ModelErrorKind> {
    config.only("tokenizer_mode", &["".into()])?;
    let arguments = config.section("tokenizer_kwargs")?;
    let clean = match &arguments {
        Some(arguments) => {
            arguments.only("strip_sep_token", &[false.into()])?;
            let clean = arguments.maybe_text("clean")?;
            arguments.refuse_unread()?;
            clean
        }
        None => None,
    };
    let repaired = "broken letters (ftfy) and HTML entities are read as they are written";
    config.log().note("known difference", repaired, "open_clip repairs them first");
    if config.maybe_text("hf_tokenizer_name")?.is_none_or(str::is_empty) {
        let vocabulary = config.usize_or("vocab_size", BUILT_IN)?;
        if vocabulary != BUILT_IN || clean.is_some_and(|clean| clean != "lower") {
            let supported = format!("{BUILT_IN}, where no `hf_tokenizer_name` is given");
            return Err(config.unsupported("vocab_size", &supported));
        }
        config.note("tokenizer", "open_clip's own, built in", "hf_tokenizer_name");
        return Ok(Tokenizer::open_clip());
    }
    let mut file = Value::Object(read_large_json(&folder.join(FILE))?);
    pad(&mut file, folder, config)?;
    let clean = clean.unwrap_or("whitespace");
    let Some(steps) = steps(clean) else {
        return Err(
            config.unsupported("tokenizer_kwargs", "clean: whitespace, lower, canonicalize")
        );
    };
    config.log().note(
        "cleaning",
        clean,
        format!("{}: text_cfg.tokenizer_kwargs", super::open_clip::CONFIG),
    );
    if clean == "canonicalize" {
        forget_punctuated(&mut file);
    }
    let theirs = file["normalizer"].take();
    let steps: Vec<Value> =
        steps.into_iter().chain(Some(theirs).filter(|theirs| !theirs.is_null())).collect();
    file["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
    Ok(Tokenizer::from_json(file.to_string().as_bytes())?)
}

/// The cleaning as normalizers in front of the tokenizer's own.
fn steps(clean: &str) -> Option<Vec<Value>> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let lower = json!({"type": "Lowercase"});
    let spaces = replace(json!({"Regex": r"\s+"}), " ");
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let blank = replace(json!({"String": "_"}), " ");
    let punctuation = replace(json!({"Regex": r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]\^_`{|}~]"##}), "");
    match clean {
        "whitespace" => Some(vec![spaces, strip]),
        "lower" => Some(vec![spaces, strip, lower]),
        "canonicalize" => Some(vec![blank, punctuation, lower, spaces, strip]),
        _ => None,
    }
}

/// Special tokens lose their punctuation before the tokenizer looks for them, so it finds none.
fn forget_punctuated(file: &mut Value) {
    if let Some(added) = file["added_tokens"].as_array_mut() {
        let punctuated = |token: &Value| {
            token["content"].as_str().is_some_and(|s| s.bytes().any(|b| b.is_ascii_punctuation()))
        };
        added.retain(|token| !punctuated(token));
    }
}

/// Padding is told beside the tokenizer, and read where a tower looks at it.
fn pad(file: &mut Value, folder: &Path, config: &Config) -> Result<(), ModelErrorKind> {
    let name = "tokenizer_config.json";
    if !folder.join(name).exists() {
        return Ok(());
    }
    let python = Config::open(&folder.join(name), name, config.log())?;
    python.ignore_all();
    let token = match python.get("pad_token") {
        Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
        Some(token) => token.as_str(),
        None => None,
    };
    let Some(token) = token else { return Ok(()) };
    let added = file["added_tokens"].as_array().into_iter().flatten();
    let mut named = added.filter(|added| added["content"] == token);
    let id = named.next().map(|added| added["id"].clone());
    let id = id.or_else(|| file["model"]["vocab"].get(token).cloned());
    let Some(id) = id else { return Ok(()) };
    config.log().note("padding token", token, "tokenizer_config.json: pad_token");
    file["padding"] = json!({
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": id, "pad_type_id": 0, "pad_token": token
    });
    Ok(())
}
