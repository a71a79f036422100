//! One JSON object as flat text fields.
//!
//! In:  bytes. Out: `(name, text)` pairs sorted by name; a list of plain values gives one pair each,
//!      `null` gives none, anything nested is kept as JSON text.

use serde_json::{Map, Value};

use crate::{limits::Limits, record::Reason};

/// Parses one object, and flattens it.
pub(super) fn fields(bytes: &[u8], limits: &Limits) -> Result<Vec<(String, String)>, Reason> {
    let object = object(bytes, limits)?;
    let mut fields = Vec::with_capacity(object.len());
    for (name, value) in object {
        flatten(name, value, &mut fields);
    }
    // The map's own order depends on a feature any crate of the build may switch on.
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fields)
}

/// Parses one object as it is.
pub(crate) fn object(bytes: &[u8], limits: &Limits) -> Result<Map<String, Value>, Reason> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let byte = error.valid_up_to() + 1;
        return Err(Reason::NotUtf8 { part: "the line".to_owned(), byte });
    }
    if depth(bytes) > limits.json_depth {
        return Err(Reason::JsonDepth { limit: limits.json_depth });
    }
    serde_json::from_slice(bytes).map_err(Reason::Json)
}

fn flatten(name: String, value: Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::String(text) => into.push((name, text)),
        Value::Array(values) if values.iter().all(is_plain) => {
            for value in values {
                flatten(name.clone(), value, into);
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            into.push((name, value.to_string()));
        }
    }
}

fn is_plain(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

/// The deepest nesting of brackets outside strings; needs no valid JSON.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
