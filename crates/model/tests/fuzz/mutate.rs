//! Random changes of files that keep enough of their structure to be read for a while.

use std::fmt;

use rand::{Rng, RngCore};
use serde_json::{Map, Value, json};

use crate::folders::Base;

/// One changed file of a folder.
pub(crate) struct Mutation {
    pub(crate) file: String,
    /// The key that was changed, if one was.
    pub(crate) key: String,
    what: String,
    pub(crate) content: Vec<u8>,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in {}: {} (seed: CONJOIN_FUZZ_SEED)", self.file, self.what)
    }
}

/// Stands for text that is no JSON value, until the document is written.
const RAW: &str = "\u{1}raw";

/// Changes a node: other values, removed or doubled keys and items.
pub(crate) fn change_json(base: &Base, file: &str, rng: &mut dyn RngCore) -> Option<Mutation> {
    let mut document: Value = serde_json::from_slice(base.content(file)).ok()?;
    let mut raw = String::new();
    let (mut what, mut key) = (String::new(), String::new());
    for _ in 0..[1, 1, 1, 2][rng.random_range(0..4)] {
        let mut paths = Vec::new();
        collect(&document, "", &mut paths);
        let path = paths[rng.random_range(0..paths.len())].clone();
        key = path.rsplit('/').next().unwrap_or("").to_owned();
        what += &format!("{path}: {}; ", change(&mut document, &path, &mut raw, rng)?);
    }
    let content = document.to_string().replace(&json!(RAW).to_string(), &raw).into_bytes();
    Some(Mutation { file: file.to_owned(), key, what, content })
}

fn collect(value: &Value, path: &str, into: &mut Vec<String>) {
    into.push(path.to_owned());
    match value {
        Value::Object(keys) => {
            // A vocabulary's thousands of keys are all of one kind.
            for (key, value) in keys.iter().take(60) {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect(value, &format!("{path}/{key}"), into);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate().take(4) {
                collect(value, &format!("{path}/{i}"), into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn change(
    document: &mut Value,
    path: &str,
    raw: &mut String,
    rng: &mut dyn RngCore,
) -> Option<String> {
    if rng.random_range(0..5) == 0
        && let Some((parent, key)) = path.rsplit_once('/')
    {
        return Some(match document.pointer_mut(parent)? {
            Value::Object(keys) => {
                keys.remove(&key.replace("~1", "/").replace("~0", "~"));
                "removed".to_owned()
            }
            Value::Array(items) => {
                let item = items[key.parse::<usize>().ok()?].clone();
                items.push(item);
                "doubled".to_owned()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        });
    }
    let node = document.pointer_mut(path)?;
    *node = other(node, raw, rng);
    let told = if *node == RAW { raw.as_str() } else { &node.to_string() };
    Some(told.chars().take(80).collect())
}

/// A value that is odd in this place.
fn other(node: &Value, raw: &mut String, rng: &mut dyn RngCore) -> Value {
    let near = node.as_u64().unwrap_or(2).min(1 << 40);
    let odd = [
        Value::Null,
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(near + 1),
        json!(near.saturating_sub(1)),
        json!(near * 2),
        json!(near * 1024),
        json!(1_u64 << 24),
        json!(1_u64 << 31),
        json!(u32::MAX),
        json!(1_u64 << 53),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e-320),
        json!(1e300),
        json!(-1e300),
        json!(""),
        json!("mean"),
        json!("../../../../../etc/passwd"),
        json!("/dev/zero"),
        json!("x".repeat(10_000)),
        json!("\u{0}\u{ffff}e\u{301}"),
        json!([]),
        json!([[]]),
        json!([near, near]),
        json!(vec![0; 10_000]),
        json!({}),
        json!({"a": 1, "type": "Sequence"}),
        nested(100),
    ];
    let texts = ["1e999", "NaN", "-Infinity", "", "{\"a\": 1, \"a\": 2}", "\"\\ud800\""];
    match rng.random_range(0..odd.len() + texts.len() + 3) {
        i if i < odd.len() => odd[i].clone(),
        i if i < odd.len() + texts.len() => {
            texts[i - odd.len()].clone_into(raw);
            json!(RAW)
        }
        i => {
            let deep = 50_000;
            let closed = if i.is_multiple_of(2) { "]".repeat(deep) } else { String::new() };
            *raw = "[".repeat(deep) + &closed;
            json!(RAW)
        }
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!({"a": inner}))
}

/// Changes the header of a safetensors file, told by eight bytes of its length.
pub(crate) fn change_header(base: &Base, file: &str, rng: &mut dyn RngCore) -> Option<Mutation> {
    let bytes = base.content(file);
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let n = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (header, data) = rest.split_at_checked(n)?;
    let mut tensors: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let names: Vec<String> = tensors.keys().filter(|k| *k != "__metadata__").cloned().collect();
    let name = names[rng.random_range(0..names.len())].clone();
    let other = tensors[&names[rng.random_range(0..names.len())]].clone();
    let (mut length, mut data) = (None, data.to_vec());
    let what = change_entry(&mut tensors, (&name, other), rng).unwrap_or_else(|| {
        let lengths = [0, 1, n as u64 - 1, n as u64 + 1, 1 << 23, 1 << 27, 1 << 40, u64::MAX];
        match rng.random_range(0..3) {
            0 => {
                length = Some(lengths[rng.random_range(0..lengths.len())]);
                format!("the header's length is {length:?}, not {n}")
            }
            1 => {
                data.truncate(data.len() / 2);
                "half of the numbers".to_owned()
            }
            _ => {
                let odd = [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE / 2.0];
                let odd = odd[rng.random_range(0..odd.len())];
                let words = data.as_chunks_mut::<4>().0;
                words[rng.random_range(0..words.len())] = odd.to_le_bytes();
                format!("a number is {odd}")
            }
        }
    });
    let header = serde_json::to_vec(&tensors).ok()?;
    let length = length.unwrap_or(header.len() as u64);
    let content = [&length.to_le_bytes()[..], &header, &data].concat();
    Some(Mutation {
        file: file.to_owned(),
        key: name.clone(),
        what: format!("{name}: {what}"),
        content,
    })
}

/// Changes what the header says of one tensor; nothing: the header stays.
fn change_entry(
    tensors: &mut Map<String, Value>,
    (name, other): (&str, Value),
    rng: &mut dyn RngCore,
) -> Option<String> {
    let dtypes = ["F16", "BF16", "F64", "I64", "U8", "F8_E4M3", "F4", "Q4", ""];
    let sizes = [0, 1, 1 << 31, 1 << 61, u64::MAX / 4, u64::MAX];
    let size = sizes[rng.random_range(0..sizes.len())];
    Some(match rng.random_range(0..9) {
        0 => {
            tensors.remove(name);
            "removed".to_owned()
        }
        1 => {
            tensors.insert(name.to_owned(), other);
            "says what another says".to_owned()
        }
        2 => {
            let value = tensors.remove(name)?;
            tensors.insert(format!("{name}x"), value);
            "renamed".to_owned()
        }
        3 => {
            tensors[name]["dtype"] = dtypes[rng.random_range(0..dtypes.len())].into();
            format!("dtype {}", tensors[name]["dtype"])
        }
        4 => {
            let i = rng.random_range(0..2);
            tensors[name]["data_offsets"][i] = json!(size);
            format!("offset {i} is {size}")
        }
        5 => {
            tensors[name]["shape"] = json!([size, 0, size]);
            format!("shape [{size}, 0, {size}]")
        }
        6 => {
            // Both agree, and are far beyond the file.
            tensors[name] = json!({"dtype": "U8", "shape": [size], "data_offsets": [0, size]});
            format!("{size} bytes")
        }
        7 => {
            tensors[name]["shape"].as_array_mut()?.reverse();
            "turned shape".to_owned()
        }
        _ => return None,
    })
}

/// Cuts a file, flips bits, repeats or removes a part.
pub(crate) fn change_bytes(base: &Base, file: &str, rng: &mut dyn RngCore) -> Mutation {
    let mut content = base.content(file).to_vec();
    let n = content.len().max(1);
    let (at, length) = (rng.random_range(0..n), rng.random_range(0..64.min(n)));
    let end = (at + length).min(content.len());
    let what = match rng.random_range(0..5) {
        0 => {
            content.truncate(at);
            format!("cut at {at}")
        }
        1 => {
            if let Some(byte) = content.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
            format!("a bit of byte {at} flipped")
        }
        2 => {
            content.drain(at.min(end)..end);
            format!("bytes {at}..{end} removed")
        }
        3 => {
            let part = content[at.min(end)..end].to_vec();
            content.splice(end..end, part);
            format!("bytes {at}..{end} twice")
        }
        _ => {
            content.clear();
            "emptied".to_owned()
        }
    };
    Mutation { file: file.to_owned(), key: String::new(), what, content }
}
