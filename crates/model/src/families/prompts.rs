//! What stands before texts of a task: from the checkpoint, or for published models that tell it only in
//! their card, from a table.
//!
//! In:  `config_sentence_transformers.json`, the model's name. Out: prompts by task.
//! Not here: putting them before texts (`conjoin_input::TextContract`).

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::config::{Config, Log};
use crate::{ModelErrorKind, families::name_of};

/// Names and prompts, with the place where they are told.
const TABLE: &str = include_str!("prompts.json");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// Where the prompts are told.
    source: String,
    /// Last parts of the models' names.
    names: Vec<String>,
    prompts: BTreeMap<String, String>,
}

/// The prompts of a model; `config` is its `config_sentence_transformers.json`, if there is one. The
/// prompt of no task in particular is under the empty name.
pub(crate) fn read(
    config: Option<&Config>,
    folder: &Path,
    log: &Log,
) -> Result<BTreeMap<String, String>, ModelErrorKind> {
    let stated = config.map(stated).transpose()?.unwrap_or_default();
    if !stated.is_empty() {
        return Ok(stated);
    }
    let name = name_of(folder);
    let Some(known) = lookup(&name) else { return Ok(stated) };
    let because =
        format!("the model is called `{name}` and its folder tells none; {}", known.source);
    log.note("prompts", known.prompts.keys().cloned().collect::<Vec<_>>().join(", "), because);
    Ok(known.prompts)
}

/// Tasks that the library names without a prompt.
const PLACEHOLDERS: [&str; 2] = ["query", "document"];

fn stated(config: &Config) -> Result<BTreeMap<String, String>, ModelErrorKind> {
    let mut prompts = BTreeMap::new();
    if let Some(section) = config.get("prompts") {
        let wrong = || config.unsupported("prompts", "a text or null for each task");
        for (task, prompt) in section.as_object().ok_or_else(wrong)? {
            match prompt {
                Value::Null => {}
                // The library writes these two for every model.
                Value::String(prompt) if prompt.is_empty() && PLACEHOLDERS.contains(&&**task) => {}
                Value::String(prompt) => {
                    prompts.insert(task.clone(), prompt.clone());
                }
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(wrong());
                }
            }
        }
    }
    if let Some(task) = config.maybe_text("default_prompt_name")? {
        config.note(
            "prompt of a text without a task",
            format!("`{task}`'s"),
            "default_prompt_name",
        );
        if let Some(prompt) = prompts.get(task).cloned() {
            prompts.insert(String::new(), prompt);
        }
    }
    if !prompts.is_empty() {
        config.note("prompts", prompts.keys().cloned().collect::<Vec<_>>().join(", "), "prompts");
    }
    Ok(prompts)
}

fn lookup(name: &str) -> Option<Known> {
    let table: Vec<Known> = serde_json::from_str(TABLE).expect("a test reads the table");
    let last = name.rsplit('/').next()?.to_lowercase();
    table.into_iter().find(|known| known.names.contains(&last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_have_their_prompts() {
        let query = |name: &str, task: &str| lookup(name)?.prompts.get(task).cloned();
        assert_eq!(query("intfloat/e5-base-v2", "passage").unwrap(), "passage: ");
        assert_eq!(query("Nomic-Embed-Text-v1.5", "search_query").unwrap(), "search_query: ");
        assert!(query("bge-small-en-v1.5", "query").unwrap().ends_with("passages: "));
        assert_eq!(query("e5-base-v2-mine", "query"), None);
    }

    #[test]
    fn a_folder_that_tells_prompts_is_believed() {
        let keys = serde_json::from_str(
            r#"{"prompts": {"query": "q: ", "document": "", "sts": "", "x": null}, "default_prompt_name": "query"}"#,
        );
        let log = Log::default();
        let config = Config::new("config_sentence_transformers.json", keys.unwrap(), &log);
        let prompts = read(Some(&config), Path::new("e5-base"), &log).unwrap();
        let expected = [("", "q: "), ("query", "q: "), ("sts", "")];
        let expected = expected.map(|(task, prompt)| (task.to_owned(), prompt.to_owned()));
        assert_eq!(prompts, BTreeMap::from(expected));
        let unknown = read(None, Path::new("models--intfloat--e5-base/snapshots/1"), &log).unwrap();
        assert_eq!(unknown["query"], "query: ");
    }
}
