//! The judgements of curation, one file each.
//!
//! In:  what a row offers. Out: a [`crate::Reason`] when it, or a part of it, is not used.
//! Not here: the order in which they are asked (`curate`).

pub(crate) mod duplicate_id;
pub(crate) mod duplicate_row;
pub(crate) mod empty_text;
pub(crate) mod image;
