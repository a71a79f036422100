//! Which columns of a catalogue mean what.
//!
//! In:  [`Columns`] as configured, the names a catalogue has. Out: an error that names what is missing,
//!      or a guess for a catalogue nobody described.

use serde::{Deserialize, Serialize};

use crate::error::{ColumnsError, MissingColumn};

/// The columns a dataset is made of.
///
/// Fields in none of them are kept as the item's payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Fields with the item's texts, in the order in which they are stored.
    pub text: Vec<String>,
    /// Field with the path of the picture. Without it, only pictures that the format itself attaches
    /// (tar shards, image folders, binary Parquet columns) are used.
    pub image: Option<String>,
    /// Field with a unique id. Without it, the format's own key or the row number is the id.
    pub id: Option<String>,
    /// Field whose equal values mean "relevant to each other".
    pub group: Option<String>,
    /// Field with `train`, `val`, `validation`, `dev` or `test`; the latter four count as val.
    /// Where it is silent, a tar shard's own name may tell ([`crate::Split::from_shard_name`]).
    pub split: Option<String>,
}

/// Names commonly given to columns, best first.
const TEXT_NAMES: [&str; 10] = [
    "title",
    "product_title",
    "name",
    "product_name",
    "productdisplayname",
    "caption",
    "captions",
    "text",
    "description",
    "product_description",
];
const IMAGE_NAMES: [&str; 9] = [
    "image",
    "image_path",
    "file_name",
    "filename",
    "picture",
    "photo",
    "img",
    "image_file",
    "jpg",
];
const ID_NAMES: [&str; 7] = ["id", "product_id", "item_id", "sku", "asin", "article_id", "uid"];
const SPLIT_NAMES: [&str; 2] = ["split", "subset"];

impl Columns {
    /// Guesses from common names; texts are empty when no name is known.
    #[must_use]
    pub fn guess(found: &[String]) -> Self {
        let pick = |names: &[&str]| {
            let by_name = |name: &&str| found.iter().find(|f| f.eq_ignore_ascii_case(name));
            names.iter().find_map(by_name).cloned()
        };
        let text = TEXT_NAMES.iter().filter_map(|name| pick(&[name])).collect();
        let (image, id, split) = (pick(&IMAGE_NAMES), pick(&ID_NAMES), pick(&SPLIT_NAMES));
        Self { text, image, id, group: None, split }
    }

    /// Every named column with what it is for.
    fn named(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let one = |role, name| Option::iter(name).map(move |n| (role, n));
        let texts = self.text.iter().map(|name| ("text", name));
        texts
            .chain(one("image", &self.image))
            .chain(one("id", &self.id))
            .chain(one("group", &self.group))
            .chain(one("split", &self.split))
    }

    /// Passes when every named column is among `found`.
    ///
    /// # Errors
    /// With every missing column, the closest name that exists, and all that were found.
    pub fn check(&self, found: &[String]) -> Result<(), ColumnsError> {
        check(self.named(), found)
    }

    /// Whether a field is the id, the image or the split, which are stored elsewhere.
    pub(crate) fn is_consumed(&self, field: &str) -> bool {
        let is = |name: &Option<String>| name.as_deref() == Some(field);
        is(&self.id) || is(&self.image) || is(&self.split)
    }
}

/// Passes when every column, given with its role, is among `found`.
pub(crate) fn check<'a>(
    wanted: impl Iterator<Item = (&'static str, &'a String)>,
    found: &[String],
) -> Result<(), ColumnsError> {
    let missing: Vec<MissingColumn> = wanted
        .filter(|(_, name)| !found.contains(name))
        .map(|(role, name)| MissingColumn {
            role,
            name: name.clone(),
            closest: closest(name, found),
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ColumnsError { missing, found: found.to_vec() })
}

/// The most similar name, if one is similar enough to be a slip: a few letters off, or one within the other.
fn closest(name: &str, found: &[String]) -> Option<String> {
    let wanted = name.to_lowercase();
    let score = |candidate: &String| {
        let have = candidate.to_lowercase();
        let distance = distance(&wanted, &have);
        let is_part = !have.is_empty() && (have.contains(&wanted) || wanted.contains(&have));
        (distance <= 1 + name.len() / 4 || is_part).then_some(distance)
    };
    let similar = found.iter().filter_map(|candidate| Some((score(candidate)?, candidate)));
    similar.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate.clone())
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
