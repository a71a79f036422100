//! The cells of one row, and what a column of it holds.
//!
//! In:  a parsed row. Out: trimmed texts, numbers, or the reject of the row.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::record::Reason;

/// Characters of a bad value that are told.
const TOLD_CHARS: usize = 40;

/// A column of an open table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Its name or position as configured.
    pub(crate) label: String,
    /// Its position in a delimited row.
    pub(super) at: usize,
}

/// A parsed row.
pub(crate) enum Cells {
    /// One text for each column.
    Fields(Vec<String>),
    /// A JSON object.
    Object(Map<String, Value>),
}

impl Cells {
    /// All texts of a column, trimmed: one of a table, any number of a JSON list. Blank ones are kept, so that
    /// positions in two lists stay comparable.
    pub(crate) fn texts(
        &self,
        column: &Column,
        max_bytes: usize,
    ) -> Result<Vec<Cow<'_, str>>, Reason> {
        let texts = match self {
            Self::Fields(fields) => vec![Cow::Borrowed(fields[column.at].as_str())],
            Self::Object(object) => match object.get(&column.label) {
                None | Some(Value::Null) => vec![],
                Some(Value::Array(values)) => values
                    .iter()
                    .map(|value| plain(value).ok_or_else(|| nested(column, "a list in a list")))
                    .collect::<Result<_, _>>()?,
                Some(value) => vec![plain(value).ok_or_else(|| nested(column, "an object"))?],
            },
        };
        match texts.iter().find(|text| text.len() > max_bytes) {
            None => Ok(texts.into_iter().map(trimmed).collect()),
            Some(text) => Err(Reason::FieldTooLong {
                field: column.label.clone(),
                found: text.len(),
                limit: max_bytes,
            }),
        }
    }

    /// The one text of a column; blank when there is none.
    pub(crate) fn text(&self, column: &Column, max_bytes: usize) -> Result<Cow<'_, str>, Reason> {
        let mut texts = self.texts(column, max_bytes)?;
        if texts.len() > 1 {
            return Err(nested(column, "a list"));
        }
        Ok(texts.pop().unwrap_or_default())
    }

    /// The one text of a column that must not be blank.
    pub(crate) fn filled(&self, column: &Column, max_bytes: usize) -> Result<Cow<'_, str>, Reason> {
        let text = self.text(column, max_bytes)?;
        if text.is_empty() {
            return Err(Reason::BlankField { field: column.label.clone() });
        }
        Ok(text)
    }
}

/// A finite number.
pub(crate) fn number(column: &Column, text: &str) -> Result<f32, Reason> {
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| Reason::NotANumber { field: column.label.clone(), found: shortened(text) })
}

/// The beginning of a text, for a message.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(TOLD_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A value that is one text; `null` is a blank one.
fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => Some(Cow::Borrowed("")),
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(_) | Value::Number(_) => Some(Cow::Owned(value.to_string())),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn nested(column: &Column, found: &'static str) -> Reason {
    Reason::NotText { field: column.label.clone(), found }
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}
