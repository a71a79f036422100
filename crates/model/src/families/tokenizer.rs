//! The tokeniser of a text encoder's folder, with the rules that stand beside it.
//!
//! In:  `tokenizer.json`, or `vocab.txt` of WordPiece; `tokenizer_config.json`. Out: a [`Tokenizer`].
//! Not here: what the tokeniser does (`conjoin-input`).
//! Parity: `testdata/parity/sentence_encoders`, `vocab_txt`, `mpnet_vocab_txt`, `old_keys`,
//! `cls_no_normalize`.
//!
//! Trap: transformers' tokenisers of BERT's kind obey `tokenizer_config.json`, and where that is silent
//! their class's default, even when `tokenizer.json` says otherwise.

use std::path::Path;

use conjoin_input::{Tokenizer, WordPieceRules, WordPieceSpecial};
use serde_json::{Map, Value, json};

use super::config::Log;
use crate::{
    ModelErrorKind,
    checkpoint::{read_json, read_limited},
};

/// What `tokenizer_config.json` says; absent is as empty.
#[derive(Debug)]
pub(crate) struct TokenizerConfig {
    keys: Map<String, Value>,
    class: Class,
}

/// The tokenisers whose rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    WordPiece(WordPieceSpecial),
    Other,
}

const FILE: &str = "tokenizer_config.json";
/// Files of tokenisers this build does not make one of.
const FOREIGN: [&str; 5] =
    ["sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.json", "merges.txt"];

impl TokenizerConfig {
    /// `model_type` decides where the file names no class.
    pub(crate) fn read(folder: &Path, model_type: &str) -> Result<Self, ModelErrorKind> {
        let path = folder.join(FILE);
        let keys: Map<String, Value> = if path.exists() { read_json(&path)? } else { Map::new() };
        let class = keys.get("tokenizer_class").and_then(Value::as_str);
        let class = match class.map(|name| name.trim_end_matches("Fast")) {
            Some("BertTokenizer" | "DistilBertTokenizer") => {
                Class::WordPiece(WordPieceSpecial::Bert)
            }
            Some("MPNetTokenizer") => Class::WordPiece(WordPieceSpecial::Mpnet),
            Some(_) => Class::Other,
            None => match model_type {
                "bert" | "distilbert" => Class::WordPiece(WordPieceSpecial::Bert),
                "mpnet" => Class::WordPiece(WordPieceSpecial::Mpnet),
                _ => Class::Other,
            },
        };
        let config = Self { keys, class };
        match config.keys.get("truncation_side").and_then(Value::as_str) {
            None | Some("right") => Ok(config),
            Some(side) => Err(unsupported("truncation_side", side, "`right`")),
        }
    }

    /// The most tokens of a text, where it is said; the library writes 10³⁰ for no limit.
    pub(crate) fn max_length(&self) -> Option<usize> {
        usize::try_from(self.keys.get("model_max_length")?.as_u64()?).ok()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ModelErrorKind> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(other) => Err(unsupported(key, &other.to_string(), "true or false")),
        }
    }

    /// BERT's tokeniser takes these, whatever else is said.
    fn word_piece(&self, special: WordPieceSpecial) -> Result<WordPieceRules, ModelErrorKind> {
        Ok(WordPieceRules {
            lowercase: self.flag("do_lower_case")?.unwrap_or(true),
            strip_accents: self.flag("strip_accents")?,
            split_chinese: self.flag("tokenize_chinese_chars")?.unwrap_or(true),
            special,
        })
    }

    /// Reads the tokeniser; `lowercase` makes letters small before everything else.
    ///
    /// # Errors
    /// When there is none that this build can make.
    pub(crate) fn tokenizer(
        &self,
        folder: &Path,
        lowercase: bool,
        log: &Log,
    ) -> Result<Tokenizer, ModelErrorKind> {
        let (json, vocabulary) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let bytes = match self.class {
            Class::WordPiece(special) if !json.exists() && vocabulary.exists() => {
                let rules = self.word_piece(special)?;
                log.note("tokeniser", format!("{rules:?}"), "only vocab.txt is there");
                Tokenizer::from_vocabulary(&read_limited(&vocabulary)?, rules)?.to_json()
            }
            Class::WordPiece(_) | Class::Other if !json.exists() => return Err(missing(folder)),
            Class::WordPiece(_) | Class::Other => read_limited(&json)?,
        };
        if matches!(self.class, Class::Other) && !lowercase {
            return Ok(Tokenizer::from_json(&bytes)?);
        }
        let keys: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|source| ModelErrorKind::Json { file: json.display().to_string(), source })?;
        let mut document = Value::Object(keys);
        if let Class::WordPiece(special) = self.class {
            obey(&mut document["normalizer"], self.word_piece(special)?, log);
        }
        if lowercase {
            lowercase_first(&mut document["normalizer"]);
        }
        Ok(Tokenizer::from_json(&document.to_string().into_bytes())?)
    }
}

fn unsupported(key: &str, found: &str, supported: &str) -> ModelErrorKind {
    ModelErrorKind::Unsupported {
        file: FILE.to_owned(),
        key: key.to_owned(),
        found: format!("`{found}`"),
        supported: supported.to_owned(),
    }
}

fn missing(folder: &Path) -> ModelErrorKind {
    let mut foreign = FOREIGN.iter().map(|name| folder.join(name));
    let found = foreign.find(|path| path.exists());
    ModelErrorKind::SentencePiece(found.unwrap_or_else(|| folder.join(FILE)))
}

/// Gives a normaliser of BERT's kind the rules that the library would.
fn obey(normalizer: &mut Value, rules: WordPieceRules, log: &Log) {
    if normalizer["type"] != "BertNormalizer" {
        return;
    }
    let wanted = [
        ("lowercase", json!(rules.lowercase)),
        ("strip_accents", json!(rules.strip_accents)),
        ("handle_chinese_chars", json!(rules.split_chinese)),
    ];
    for (key, value) in wanted {
        if normalizer[key] != value {
            let because = format!("{FILE}, against tokenizer.json: {}", normalizer[key]);
            log.note("tokeniser", format!("{key} {value}"), because);
            normalizer[key] = value;
        }
    }
}

fn lowercase_first(normalizer: &mut Value) {
    let first = json!({"type": "Lowercase"});
    let mut stored = normalizer.take();
    let rest = if stored["type"] == "Sequence" {
        stored["normalizers"].as_array_mut().map(std::mem::take).unwrap_or_default()
    } else if stored.is_null() {
        Vec::new()
    } else {
        vec![stored]
    };
    let all: Vec<Value> = std::iter::once(first).chain(rest).collect();
    *normalizer = json!({"type": "Sequence", "normalizers": all});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_letters_small_before_everything_else() {
        let check = |mut normalizer: Value, kinds: &[&str]| {
            lowercase_first(&mut normalizer);
            let found: Vec<_> =
                normalizer["normalizers"].as_array().unwrap().iter().map(|n| &n["type"]).collect();
            assert_eq!(found, kinds);
        };
        check(Value::Null, &["Lowercase"]);
        check(json!({"type": "NFC"}), &["Lowercase", "NFC"]);
        let two = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]});
        check(two, &["Lowercase", "NFC", "Strip"]);
    }

    #[test]
    fn tells_what_to_do_without_a_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("sentencepiece.bpe.model"), "").unwrap();
        let config = TokenizerConfig::read(dir.path(), "xlm-roberta").unwrap();
        let error = config.tokenizer(dir.path(), false, &Log::default()).unwrap_err().to_string();
        assert!(error.contains("sentencepiece.bpe.model`"), "{error}");
        assert!(error.contains("save_pretrained"), "{error}");
    }

    #[test]
    fn refuses_texts_cut_at_their_beginning() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join(FILE), r#"{"truncation_side": "left"}"#).unwrap();
        let error = TokenizerConfig::read(dir.path(), "bert").unwrap_err().to_string();
        assert_eq!(
            error,
            "`tokenizer_config.json`: `truncation_side` is `left`, this build implements `right`"
        );
    }
}
