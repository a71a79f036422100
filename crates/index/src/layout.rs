//! The names of an index's files, and its header.
//!
//! Parity: `docs/format/index.md`.

use conjoin_core::Modality;
use serde::{Deserialize, Serialize};

use crate::{Calibration, IndexErrorKind};

pub(crate) const FORMAT: &str = "index";
pub(crate) const VERSION: u32 = 1;

pub(crate) const HEADER: &str = "index.json";
pub(crate) const ITEMS: &str = "items.jsonl";
pub(crate) const ITEM_OFFSETS: &str = "items.offsets.u64";
pub(crate) const FUSED: &str = "fused.f32";
pub(crate) const PICTURES: &str = "pictures.bin";
pub(crate) const PICTURE_OFFSETS: &str = "pictures.offsets.u64";

/// The most items an index holds: row numbers are 32 bits wide.
pub(crate) const MAX_ITEMS: usize = u32::MAX as usize;

pub(crate) fn vectors_file(part: Modality) -> &'static str {
    match part {
        Modality::Text => "text.f32",
        Modality::Image => "image.f32",
    }
}

pub(crate) fn rows_file(part: Modality) -> &'static str {
    match part {
        Modality::Text => "text.rows.u32",
        Modality::Image => "image.rows.u32",
    }
}

/// What `index.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) width: usize,
    pub(crate) items: usize,
    pub(crate) text_rows: usize,
    pub(crate) image_rows: usize,
    pub(crate) text_weight: f32,
    pub(crate) image_weight: f32,
    pub(crate) calibration: Option<Calibration>,
}

impl Header {
    /// Refuses values outside their ranges.
    pub(crate) fn check(&self) -> Result<(), IndexErrorKind> {
        check_range("width", self.width, 1, MAX_WIDTH, "1 to 65536")?;
        check_range("items", self.items, 0, MAX_ITEMS, "below 2^32")?;
        check_range("text_rows", self.text_rows, 0, self.items, "at most `items`")?;
        check_range("image_rows", self.image_rows, 0, self.items, "at most `items`")?;
        check_weight("text_weight", self.text_weight)?;
        check_weight("image_weight", self.image_weight)?;
        self.calibration.as_ref().map_or(Ok(()), check_calibration)
    }

    pub(crate) fn rows(&self, part: Modality) -> usize {
        match part {
            Modality::Text => self.text_rows,
            Modality::Image => self.image_rows,
        }
    }
}

/// Far above any model's width; keeps sizes from overflowing.
const MAX_WIDTH: usize = 1 << 16;

fn check_range(
    key: &'static str,
    found: usize,
    low: usize,
    high: usize,
    expected: &'static str,
) -> Result<(), IndexErrorKind> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(IndexErrorKind::Setting { key, found: found.to_string(), expected })
}

pub(crate) fn check_width(width: usize) -> Result<(), IndexErrorKind> {
    check_range("width", width, 1, MAX_WIDTH, "1 to 65536")
}

pub(crate) fn check_weight(key: &'static str, weight: f32) -> Result<(), IndexErrorKind> {
    if weight.is_finite() && weight > 0.0 {
        return Ok(());
    }
    Err(IndexErrorKind::Setting { key, found: weight.to_string(), expected: "finite, above 0" })
}

pub(crate) fn check_calibration(calibration: &Calibration) -> Result<(), IndexErrorKind> {
    for (key, scale) in calibration.scales() {
        if let Some(scale) = scale.filter(|s| !s.is_valid()) {
            let found = format!("mean {}, std {}", scale.mean, scale.std);
            let expected = "finite, with a std of at least 1e-6";
            return Err(IndexErrorKind::Setting { key, found, expected });
        }
    }
    Ok(())
}

/// One line of `items.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) payload: std::collections::BTreeMap<String, String>,
}
