//! Texts of a row; a row without any is told so.

use crate::record::{RawRecord, Reason};

/// The texts of the given fields in their order, trimmed, blank ones left out.
///
/// Fails when there are text fields and none has text.
pub(crate) fn texts(
    record: &RawRecord,
    fields: &[String],
) -> Result<Vec<(String, String)>, Reason> {
    let mut texts = Vec::new();
    for field in fields {
        let values = record.fields.iter().filter(|(name, _)| name == field);
        let values = values.map(|(_, value)| value.trim()).filter(|value| !value.is_empty());
        texts.extend(values.map(|value| (field.clone(), value.to_owned())));
    }
    if texts.is_empty() && !fields.is_empty() { Err(Reason::EmptyText) } else { Ok(texts) }
}
