//! The texts of an item, as they are embedded.

use conjoin_data::Item;

/// The text of all fields, the title first.
pub(crate) fn joined_text(item: &Item) -> Option<String> {
    let texts: Vec<&str> = item.texts.iter().map(|(_, text)| text.trim()).collect();
    (!texts.is_empty()).then(|| texts.join(". "))
}

/// The first text field.
pub(crate) fn title(item: &Item) -> Option<&str> {
    item.texts.first().map(|(_, text)| text.as_str())
}
