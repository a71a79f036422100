//! How much of an untrusted catalogue is read into memory at once.

use serde::{Deserialize, Serialize};

/// Sizes beyond which a record is rejected instead of read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest line of a text catalogue, in bytes; also the longest CSV record of several lines.
    pub line_bytes: usize,
    /// Longest field, in bytes.
    pub field_bytes: usize,
    /// Largest encoded image, in bytes.
    pub image_bytes: usize,
    /// Most pixels of an image.
    pub image_pixels: usize,
    /// Deepest nesting of a JSON record; a flat object has depth 1.
    pub json_depth: usize,
    /// Largest entry of a tar shard, in bytes, image or not.
    pub entry_bytes: usize,
    /// Most bytes that a compressed file of training texts may unpack to, on disk. Not part of a
    /// written configuration while it is the default.
    #[serde(skip_serializing_if = "is_default_unpacked_bytes")]
    pub unpacked_bytes: u64,
}

/// Room for 100 million pairs of short texts.
const UNPACKED_BYTES: u64 = 16 << 30;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_default_unpacked_bytes(bytes: &u64) -> bool {
    *bytes == UNPACKED_BYTES
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 4 << 20,
            field_bytes: 1 << 20,
            image_bytes: 64 << 20,
            image_pixels: 100_000_000,
            json_depth: 32,
            entry_bytes: 64 << 20,
            unpacked_bytes: UNPACKED_BYTES,
        }
    }
}
