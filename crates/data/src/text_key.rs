//! When two texts count as the same one.
//!
//! In:  a text. Out: its normal form, or 64 bits of it.

use conjoin_core::Seed;

/// Lower case, with single spaces.
pub(crate) fn normalized(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Equal for texts of one normal form; for others different, up to an accident in 2⁶⁴.
///
/// It keeps equal texts apart, nothing else: the worst a crafted collision does is a batch drawn otherwise.
#[must_use]
pub fn text_hash(text: &str) -> u64 {
    Seed(0).stream(&normalized(text)).0
}
