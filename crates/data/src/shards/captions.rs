//! Where the captions of a sample stand: in a file of their own, or in a field of the JSON file.
//!
//! In:  `txt`, or `json.FIELD`; that file's bytes. Out: captions, or why there is none.

use serde_json::Value;

use crate::{Limits, Reason, read::json};

const JSON: &str = "json";

/// The place of the captions.
#[derive(Debug)]
pub(super) struct Caption {
    extension: String,
    /// Of the JSON file; none where the file is the caption.
    field: Option<String>,
}

impl Caption {
    pub(super) fn new(place: &str) -> Self {
        match place.split_once('.') {
            Some((JSON, field)) => {
                Self { extension: JSON.to_owned(), field: Some(field.to_owned()) }
            }
            _ => Self { extension: place.to_ascii_lowercase(), field: None },
        }
    }

    /// Whether a file of this extension holds them.
    pub(super) fn is_in(&self, extension: &str) -> bool {
        self.extension == extension
    }

    fn name(&self) -> String {
        self.field
            .as_ref()
            .map_or_else(|| self.extension.clone(), |field| format!("{JSON}.{field}"))
    }

    /// That there is none.
    pub(super) fn blank(&self) -> Reason {
        Reason::BlankField { field: self.name() }
    }

    /// All of them, trimmed, without blank ones.
    pub(super) fn texts(&self, bytes: &[u8], limits: &Limits) -> Result<Vec<String>, Reason> {
        let texts = match &self.field {
            None => vec![utf8(bytes)?.to_owned()],
            Some(field) => match json::object(bytes, limits)?.remove(field) {
                None => Vec::new(),
                Some(value) => self.of_value(value)?,
            },
        };
        let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let texts: Vec<String> = texts.map(str::to_owned).collect();
        let (found, limit) = (texts.iter().map(String::len).max(), limits.field_bytes);
        match found {
            None => Err(self.blank()),
            Some(found) if found > limit => {
                Err(Reason::FieldTooLong { field: self.name(), found, limit })
            }
            Some(_) => Ok(texts),
        }
    }

    /// A text, a list of texts, or a list of `[name, text]` as in the shards of our datasets.
    fn of_value(&self, value: Value) -> Result<Vec<String>, Reason> {
        let found = match value {
            Value::Null => return Ok(Vec::new()),
            Value::String(text) => return Ok(vec![text]),
            Value::Array(values) => {
                let texts = values.into_iter().map(|value| match value {
                    Value::Array(mut pair) if pair.len() == 2 => self.of_value(pair.remove(1)),
                    Value::Array(_) => Err(self.not_text("a list of lists")),
                    value @ (Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_)
                    | Value::Object(_)) => self.of_value(value),
                });
                return Ok(texts.collect::<Result<Vec<_>, _>>()?.concat());
            }
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Object(_) => "an object",
        };
        Err(self.not_text(found))
    }

    fn not_text(&self, found: &'static str) -> Reason {
        Reason::NotText { field: self.name(), found }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Reason> {
    std::str::from_utf8(bytes).map_err(|error| Reason::NotUtf8 {
        part: "the text".to_owned(),
        byte: error.valid_up_to() + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(place: &str, content: &str, expected: Result<&[&str], &str>) {
        let limits = Limits { field_bytes: 12, ..Limits::default() };
        let found = Caption::new(place).texts(content.as_bytes(), &limits);
        let expected = expected.map(|texts| texts.iter().map(|t| (*t).to_owned()).collect());
        assert_eq!(found.map_err(|e| e.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn captions_are_texts_or_fields() {
        check("txt", " a dog \n", Ok(&["a dog"]));
        check("txt", " \n", Err("field `txt` is blank"));
        check("txt", "much longer than that", Err("field `txt` has 21 bytes, the limit is 12"));
        check("json.caption", r#"{"caption": "a dog", "url": "x"}"#, Ok(&["a dog"]));
        check("json.captions", r#"{"captions": ["a dog", " ", "a cat"]}"#, Ok(&["a dog", "a cat"]));
        check(
            "json.texts",
            r#"{"texts": [["title", "a dog"], ["text", "a cat"]]}"#,
            Ok(&["a dog", "a cat"]),
        );
        check("json.caption", r#"{"caption": null}"#, Err("field `json.caption` is blank"));
        check("json.caption", r#"{"title": "a dog"}"#, Err("field `json.caption` is blank"));
        check(
            "json.caption",
            r#"{"caption": 7}"#,
            Err("field `json.caption` is a number, expected a text"),
        );
        check("json.caption", "[", Err("not a JSON object"));
    }
}
