//! Rows that are equal in every field and in the picture's bytes.
//!
//! The key that a format gives a record (a WebDataset key, a file's name) is no field: the same picture
//! with the same text under two names is one row.

use std::collections::{HashMap, hash_map::Entry};

use conjoin_core::hash_bytes;

use crate::record::{Place, RawRecord, Reason};

/// The contents seen so far, with the row that brought each.
#[derive(Debug, Default)]
pub(crate) struct SeenRows(HashMap<String, Place>);

impl SeenRows {
    /// Notes a row's content, or names the row it equals.
    pub(crate) fn note(
        &mut self,
        record: &RawRecord,
        image_sha256: Option<&str>,
    ) -> Result<(), Reason> {
        match self.0.entry(content_hash(record, image_sha256)) {
            Entry::Occupied(first) => Err(Reason::DuplicateRow { first: first.get().clone() }),
            Entry::Vacant(free) => {
                free.insert(record.place.clone());
                Ok(())
            }
        }
    }
}

fn content_hash(record: &RawRecord, image_sha256: Option<&str>) -> String {
    let mut bytes = Vec::new();
    let mut add = |text: &str| {
        // Lengths keep ("ab", "c") apart from ("a", "bc").
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    for (name, value) in &record.fields {
        add(name);
        add(value);
    }
    add(image_sha256.unwrap_or(""));
    hash_bytes(&bytes)
}
