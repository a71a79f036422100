//! Ids that were used before.

use std::collections::{HashMap, hash_map::Entry};

use crate::record::{Place, Reason};

/// The ids seen so far, with the row that brought each.
#[derive(Debug, Default)]
pub(crate) struct SeenIds(HashMap<String, Place>);

impl SeenIds {
    /// Notes an id, or names the row that has it.
    pub(crate) fn note(&mut self, id: &str, place: &Place) -> Result<(), Reason> {
        match self.0.entry(id.to_owned()) {
            Entry::Occupied(first) => Err(Reason::DuplicateId { first: first.get().clone() }),
            Entry::Vacant(free) => {
                free.insert(place.clone());
                Ok(())
            }
        }
    }
}
