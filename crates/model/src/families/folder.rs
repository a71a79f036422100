//! The small files around a model that say a few things each.
//!
//! In:  JSON files that may be absent, `modules.json`. Out: single values, and which modules there are.
//! Not here: `config.json` of a model, all of whose keys must be known (`config`).

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::{ModelErrorKind, checkpoint::read_json};

/// A JSON file of which a few keys are read; an absent one has none.
#[derive(Debug)]
pub(crate) struct Settings {
    file: String,
    root: Value,
}

impl Settings {
    pub(crate) fn read(path: &Path) -> Result<Self, ModelErrorKind> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let root = if path.exists() { read_json(path)? } else { Value::Null };
        Ok(Self { file: name, root })
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The value behind keys of objects and places of lists; `null` counts as absent.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter()
            .try_fold(&self.root, |value, key| match value {
                Value::Array(items) => items.get(key.parse::<usize>().ok()?),
                Value::Object(keys) => keys.get(*key),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            })
            .filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.at(&[key])?.as_str()
    }

    /// A whole number; one that is too large for any model (a library's "no limit") counts as absent.
    pub(crate) fn count(&self, key: &str) -> Option<usize> {
        usize::try_from(self.at(&[key])?.as_u64()?).ok()
    }

    /// As [`Settings::count`]; `default` is the reference library's.
    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelErrorKind> {
        match self.at(&[key]) {
            None => Ok(default),
            Some(found) => self
                .count(key)
                .ok_or_else(|| self.unsupported(key, &found.to_string(), "a whole number")),
        }
    }

    /// `default` is the reference library's.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelErrorKind> {
        match self.at(&[key]) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(found) => Err(self.unsupported(key, &found.to_string(), "true or false")),
        }
    }

    /// The value of a key, `null` included.
    pub(crate) fn stated(&self, key: &str) -> Option<&Value> {
        self.root.get(key)
    }

    /// Refuses every text but those given.
    pub(crate) fn only(&self, key: &str, allowed: &[&str]) -> Result<(), ModelErrorKind> {
        match self.text(key) {
            Some(found) if !allowed.contains(&found) => {
                Err(self.unsupported(key, found, &allowed.join(" or ")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a true flag, or a value that is no flag.
    pub(crate) fn refuse(&self, key: &str, supported: &str) -> Result<(), ModelErrorKind> {
        match self.at(&[key]) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(found) => Err(self.unsupported(key, &found.to_string(), supported)),
        }
    }

    /// Lowercasing that the tokenizer file does not know of.
    pub(crate) fn refuse_lower_case(&self) -> Result<(), ModelErrorKind> {
        self.refuse("do_lower_case", "false (lowercasing belongs into `tokenizer.json`)")
    }

    pub(crate) fn unsupported(&self, key: &str, found: &str, supported: &str) -> ModelErrorKind {
        ModelErrorKind::Unsupported {
            file: self.file.clone(),
            key: key.to_owned(),
            found: format!("`{found}`"),
            supported: supported.to_owned(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Type and path of the modules of a sentence-transformers folder, in order; none without the file.
pub(crate) fn module_kinds(folder: &Path) -> Result<Vec<(String, String)>, ModelErrorKind> {
    let file = folder.join("modules.json");
    if !file.exists() {
        return Ok(Vec::new());
    }
    let modules: Vec<Module> = read_json(&file)?;
    Ok(modules.into_iter().map(|module| (module.kind, module.path)).collect())
}

/// What stands behind the last dot of a Python path.
pub(crate) fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
