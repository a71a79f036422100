//! Small pictures for reports, as data URIs.

use base64::{Engine, engine::general_purpose::STANDARD};
use conjoin_data::{Dataset, Item};
use conjoin_input::{ImageLimits, thumbnail};

/// Longest side in pixels.
const SIDE: usize = 96;

/// A small JPEG of an item; `None` when it cannot be read, which costs a report only a picture.
pub(crate) fn data_uri(dataset: &Dataset, item: &Item) -> Option<String> {
    let bytes = dataset.image_bytes(item).ok()?;
    let small = thumbnail(&bytes, SIDE, &ImageLimits::default()).ok()?;
    Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(small)))
}
