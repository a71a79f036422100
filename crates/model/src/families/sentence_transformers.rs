//! sentence-transformers' folder around a text encoder.
//!
//! In:  `modules.json`, the modules' own `config.json`, `sentence_bert_config.json`, `config.json`,
//!      `tokenizer.json`, `model.safetensors`. Out: a [`Plan`] with a text tower.
//! Parity: `testdata/parity/sentence_encoders`, `testdata/parity/minilm`.

use std::{collections::BTreeMap, path::Path};

use conjoin_input::{InputContract, TextContract, Tokenizer};
use serde::Deserialize;

use super::{
    Plan, Reading,
    config::{Config, Log},
    text,
};
use crate::{
    Card, Matryoshka, ModelErrorKind, Pooling, Weights,
    checkpoint::{read_json, read_limited},
    tower::TEXT_PREFIX,
};

#[derive(Debug, Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

pub(crate) fn plan(folder: &Path, log: &Log) -> Result<Plan, ModelErrorKind> {
    let modules: Vec<Module> = read_json(&folder.join("modules.json"))?;
    let config = Config::of_transformers(&folder.join("config.json"), "config.json", log)?;
    log.family(format!("sentence-transformers around {}", config.text("model_type")?));
    let mut body = text::body(&config)?;
    let mut pooled = false;
    for module in &modules {
        match module.kind.rsplit('.').next() {
            Some("Transformer") if module.path.is_empty() => {}
            Some("Normalize") => {}
            Some("Pooling") => {
                let name = format!("{}/config.json", module.path);
                body.spec.pooling = pooling(&Config::open(&folder.join(&name), &name, log)?)?;
                pooled = true;
            }
            _ => {
                return Err(ModelErrorKind::Unsupported {
                    file: "modules.json".to_owned(),
                    key: "type".to_owned(),
                    found: format!("`{}`", module.kind),
                    supported: "Transformer, Pooling and Normalize".to_owned(),
                });
            }
        }
    }
    if !pooled {
        return Err(ModelErrorKind::Unsupported {
            file: "modules.json".to_owned(),
            key: "type".to_owned(),
            found: "no Pooling module".to_owned(),
            supported: "one Pooling module".to_owned(),
        });
    }
    let limits = "sentence_bert_config.json";
    let limits = Config::open(&folder.join(limits), limits, log)?;
    let stated = limits.maybe_usize("max_seq_length")?.unwrap_or(usize::MAX);
    let max_tokens = stated.min(body.spec.max_tokens());
    limits.note("most tokens", max_tokens, "max_seq_length");
    let name = folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let names = body.names.into_iter().map(|(ours, s)| (format!("{TEXT_PREFIX}{ours}"), s));
    Ok(Plan {
        text: Some(body.spec),
        image: None,
        contract: InputContract {
            text: Some(TextContract { max_tokens, padded: false, prompts: BTreeMap::new() }),
            image: None,
        },
        tokenizer: Some(Tokenizer::from_json(&read_limited(&folder.join("tokenizer.json"))?)?),
        names: names.collect(),
        unused: body.unused,
        log_scale: 0.0,
        score_bias: 0.0,
        matryoshka: Matryoshka::default(),
        card: Card { name: name.clone(), licence: None, sources: vec![name] },
        weights: Weights::open_folder(folder)?,
        reading: Reading::default(),
    })
}

/// Reads the old (a flag per mode) and the new (`pooling_mode`) keys.
fn pooling(config: &Config) -> Result<Pooling, ModelErrorKind> {
    config.ignore(&["word_embedding_dimension", "embedding_dimension"]);
    let supported = "one of mean, cls, lasttoken";
    let (key, mode) = match config.maybe_text("pooling_mode")? {
        Some(mode) => ("pooling_mode".to_owned(), mode.to_owned()),
        None => {
            let mut on = Vec::new();
            for mode in OLD_MODES {
                let key = format!("pooling_mode_{mode}");
                if config.flag_or(&key, false)? {
                    on.push((key, mode.to_owned()));
                }
            }
            match <[_; 1]>::try_from(on) {
                Ok([one]) => one,
                Err(on) if on.is_empty() => {
                    return Err(config.unsupported("pooling_mode", supported));
                }
                Err(on) => return Err(config.unsupported(&on[1].0, "one pooling mode")),
            }
        }
    };
    let (pooling, words) = match mode.as_str() {
        "mean" | "mean_tokens" => (Pooling::Mean, "the mean of all tokens"),
        "cls" | "cls_token" => (Pooling::First, "the first token"),
        "lasttoken" => (Pooling::Last, "the last token"),
        _ => return Err(config.unsupported(&key, supported)),
    };
    config.note("text pooling", words, &key);
    Ok(pooling)
}

const OLD_MODES: [&str; 6] = [
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Pooling, String> {
        let keys = serde_json::from_str(json).unwrap();
        let config = Config::new("1_Pooling/config.json", keys, &Log::default());
        pooling(&config).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_old_and_new_pooling_keys() {
        let old = r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
                      "pooling_mode_mean_tokens": true}"#;
        assert_eq!(read(old), Ok(Pooling::Mean));
        assert_eq!(read(r#"{"pooling_mode": "cls"}"#), Ok(Pooling::First));
        let two = r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#;
        assert!(read(two).unwrap_err().contains("`pooling_mode_max_tokens` is true"));
        assert!(read("{}").unwrap_err().contains("one of mean, cls, lasttoken"));
    }
}
