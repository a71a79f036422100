//! Reading the configuration of somebody else's checkpoint, and remembering what was made of it.
//!
//! In:  a JSON object. Out: typed values; a [`Reading`] that tells which rule was chosen from which key,
//! and which keys nothing asked for.

use std::{cell::RefCell, collections::BTreeSet, fmt::Display, path::Path, rc::Rc};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    ModelErrorKind,
    checkpoint::read_json,
    spec::{MAX_LAYERS, MAX_SIZE},
};

/// What was read of a checkpoint, and what was made of it: the content of `conjoin doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The layout and the family, in words.
    pub family: String,
    /// The rules, in the order in which they were chosen.
    pub notes: Vec<Note>,
    /// Keys that nothing asked for, as `file: key`. They may change nothing, or be news.
    pub unread: BTreeSet<String>,
}

/// One rule, and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What is decided (`text pooling`).
    pub what: String,
    /// The choice (`the mean of all tokens`).
    pub choice: String,
    /// What it follows from (``1_Pooling/config.json: pooling_mode is `mean` ``).
    pub because: String,
}

/// A [`Reading`] that grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Reading>>);

impl Log {
    pub(crate) fn family(&self, family: impl Into<String>) {
        self.0.borrow_mut().family = family.into();
    }

    pub(crate) fn note(&self, what: &str, choice: impl Display, because: impl Into<String>) {
        let (what, choice) = (what.to_owned(), choice.to_string());
        self.0.borrow_mut().notes.push(Note { what, choice, because: because.into() });
    }

    pub(crate) fn take(&self) -> Reading {
        self.0.take()
    }
}

/// Keys of transformers' configurations that change no number of an embedding.
const HARMLESS: [&str; 36] = [
    "_name_or_path",
    "_commit_hash",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "auto_map",
    "bos_token_id",
    "classifier_dropout",
    "dropout",
    "dtype",
    "embedding_dropout",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "language",
    "length_penalty",
    "mlp_dropout",
    "model_type",
    "name",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// A JSON object whose keys are read by name and type.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file, for messages.
    file: String,
    /// Keys above this object, each with a dot behind.
    path: String,
    keys: Map<String, Value>,
    log: Log,
}

impl Config {
    /// Reads a file; `name` is how messages call it.
    pub(crate) fn open(path: &Path, name: &str, log: &Log) -> Result<Self, ModelErrorKind> {
        Ok(Self::new(name, read_json(path)?, log))
    }

    pub(crate) fn new(file: &str, keys: Map<String, Value>, log: &Log) -> Self {
        let config = Self { file: file.to_owned(), path: String::new(), keys, log: log.clone() };
        config.expect_all();
        config
    }

    /// As [`Config::open`] for a file of transformers, whose harmless keys are known.
    pub(crate) fn of_transformers(
        path: &Path,
        name: &str,
        log: &Log,
    ) -> Result<Self, ModelErrorKind> {
        let config = Self::open(path, name, log)?;
        config.ignore(&HARMLESS);
        Ok(config)
    }

    fn expect_all(&self) {
        let mut reading = self.log.0.borrow_mut();
        reading.unread.extend(self.keys.keys().map(|key| self.place(key)));
    }

    fn place(&self, key: &str) -> String {
        format!("{}: {}{key}", self.file, self.path)
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Notes a rule that follows from `key`.
    pub(crate) fn note(&self, what: &str, choice: impl Display, key: &str) {
        let because = match self.keys.get(key) {
            Some(value) => format!("{} is {value}", self.place(key)),
            None => format!("{} is absent", self.place(key)),
        };
        self.log.note(what, choice, because);
    }

    /// Marks keys as read that change no number.
    pub(crate) fn ignore(&self, keys: &[&str]) {
        let mut reading = self.log.0.borrow_mut();
        for key in keys {
            reading.unread.remove(&self.place(key));
        }
    }

    /// Refuses keys that nothing has asked for yet.
    pub(crate) fn refuse_unread(&self) -> Result<(), ModelErrorKind> {
        let unread = |key: &&String| self.log.0.borrow().unread.contains(&self.place(key));
        match self.keys.keys().find(unread) {
            Some(key) => Err(self.unsupported(key, "models without this key")),
            None => Ok(()),
        }
    }

    /// Marks every key as one that changes no number.
    pub(crate) fn ignore_all(&self) {
        let keys: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        self.ignore(&keys);
    }

    /// A key's value; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.ignore(&[key]);
        self.keys.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether the key is there with `null`.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    /// The error that a value is not implemented.
    pub(crate) fn unsupported(&self, key: &str, supported: &str) -> ModelErrorKind {
        let found = self.keys.get(key).map_or_else(|| "absent".to_owned(), shown);
        ModelErrorKind::Unsupported {
            file: self.file.clone(),
            key: format!("{}{key}", self.path),
            found,
            supported: supported.to_owned(),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelErrorKind> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.unsupported(key, kind)),
        }
    }

    fn needed<T>(&self, key: &str, value: Option<T>, kind: &str) -> Result<T, ModelErrorKind> {
        value.ok_or_else(|| self.unsupported(key, kind))
    }

    pub(crate) fn maybe_usize(&self, key: &str) -> Result<Option<usize>, ModelErrorKind> {
        let (most, kind) = if key.contains("layer") || key.contains("depth") {
            (MAX_LAYERS, DEPTH)
        } else {
            (MAX_SIZE, COUNT)
        };
        self.typed(key, kind, |v| usize::try_from(v.as_u64()?).ok().filter(|n| *n <= most))
    }

    pub(crate) fn usize(&self, key: &str) -> Result<usize, ModelErrorKind> {
        self.needed(key, self.maybe_usize(key)?, COUNT)
    }

    /// `default` is the reference library's for this kind of model.
    pub(crate) fn usize_or(&self, key: &str, default: usize) -> Result<usize, ModelErrorKind> {
        Ok(self.maybe_usize(key)?.unwrap_or(default))
    }

    pub(crate) fn maybe_f32(&self, key: &str) -> Result<Option<f32>, ModelErrorKind> {
        self.typed(key, NUMBER, |v| Some(v.as_f64()? as f32).filter(|v| v.is_finite()))
    }

    /// `default` is the reference library's for this kind of model.
    pub(crate) fn f32_or(&self, key: &str, default: f32) -> Result<f32, ModelErrorKind> {
        Ok(self.maybe_f32(key)?.unwrap_or(default))
    }

    /// `default` is the reference library's for this kind of model.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelErrorKind> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(crate) fn maybe_text(&self, key: &str) -> Result<Option<&str>, ModelErrorKind> {
        self.typed(key, TEXT, Value::as_str)
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, ModelErrorKind> {
        self.needed(key, self.maybe_text(key)?, TEXT)
    }

    /// `default` is the reference library's for this kind of model.
    pub(crate) fn text_or<'a>(
        &'a self,
        key: &str,
        default: &'a str,
    ) -> Result<&'a str, ModelErrorKind> {
        Ok(self.maybe_text(key)?.unwrap_or(default))
    }

    /// A switch that has no known default.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, ModelErrorKind> {
        self.needed(key, self.typed(key, "true or false", Value::as_bool)?, "true or false")
    }

    /// Refuses every value of `key` but absence and those given.
    pub(crate) fn only(&self, key: &str, allowed: &[Value]) -> Result<(), ModelErrorKind> {
        match self.get(key) {
            Some(value) if !allowed.contains(value) => {
                let listed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                let absence = if listed.is_empty() { "its absence" } else { "" };
                Err(self.unsupported(key, &format!("{absence}{}", listed.join(" or "))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses keys that nothing asked for, where all of them are rules.
    pub(crate) fn all_read(&self) -> Result<(), ModelErrorKind> {
        let unread = self.log.0.borrow().unread.clone();
        match self.keys.keys().find(|key| unread.contains(&self.place(key))) {
            Some(key) => Err(self.unsupported(key, "no such key")),
            None => Ok(()),
        }
    }

    /// An object inside this one, empty where it is absent.
    pub(crate) fn section_or_empty(&self, key: &str) -> Result<Self, ModelErrorKind> {
        let empty = || Self {
            file: self.file.clone(),
            path: format!("{}{key}.", self.path),
            keys: Map::new(),
            log: self.log.clone(),
        };
        Ok(self.section(key)?.unwrap_or_else(empty))
    }

    /// An object inside this one.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>, ModelErrorKind> {
        let keys = self.typed(key, "an object", Value::as_object)?;
        Ok(keys.map(|keys| {
            let section = Self {
                file: self.file.clone(),
                path: format!("{}{key}.", self.path),
                keys: keys.clone(),
                log: self.log.clone(),
            };
            section.expect_all();
            section.ignore(&HARMLESS);
            section
        }))
    }
}

/// Up to [`MAX_SIZE`]: names and shapes are made of counts before anything can compare them with the
/// tensors.
const COUNT: &str = "a whole number up to 16777216";
/// Up to [`MAX_LAYERS`].
const DEPTH: &str = "a whole number up to 1024";
const NUMBER: &str = "a number";
const TEXT: &str = "a text";

/// A value as far as a message should tell it.
pub(crate) fn shown(value: &Value) -> String {
    const MOST: usize = 200;
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: Value, log: &Log) -> Config {
        let Value::Object(keys) = value else { panic!("an object") };
        Config::new("config.json", keys, log)
    }

    #[test]
    fn remembers_what_was_read_and_why() {
        let log = Log::default();
        let config = config(json!({"a": 1, "b": null, "c": {"d": true, "e": 1}}), &log);
        assert_eq!(config.usize("a").unwrap(), 1);
        assert_eq!(config.usize_or("b", 7).unwrap(), 7);
        assert!(config.section("c").unwrap().unwrap().flag_or("d", false).unwrap());
        config.note("width", 1, "a");
        let reading = log.take();
        assert_eq!(reading.unread, BTreeSet::from(["config.json: c.e".to_owned()]));
        assert_eq!(reading.notes[0].because, "config.json: a is 1");
    }

    #[test]
    fn names_what_it_does_not_implement() {
        let log = Log::default();
        let config = config(json!({"kind": "odd", "n": "x"}), &log);
        let error = config.only("kind", &["plain".into()]).unwrap_err().to_string();
        assert_eq!(error, "`config.json`: `kind` is \"odd\", this build implements \"plain\"");
        let error = config.usize("n").unwrap_err().to_string();
        assert_eq!(
            error,
            "`config.json`: `n` is \"x\", this build implements a whole number up to 16777216"
        );
        assert!(config.usize("gone").unwrap_err().to_string().contains("`gone` is absent"));
    }
}
