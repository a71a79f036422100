//! Exact search over named vectors, with payloads and pictures, committed atomically.
//!
//! In:  items with unit vectors, payloads and pictures ([`IndexBuilder`]).
//! Out: an artefact on disk, format `docs/format/index.md`, and [`Index`], a
//!      [`conjoin_core::Store`] over it.
//! Not here: embedding, HTTP (`conjoin-serve`), approximate search.

mod builder;
mod calibration;
mod error;
mod index;
mod layout;
mod mapped;
mod open;
mod scan;
mod search;
mod top;

pub use builder::{IndexBuilder, IndexConfig, IndexItem, ManifestParts};
pub use calibration::{Calibration, Scale};
pub use error::{IndexError, IndexErrorKind, ItemErrorKind};
pub use index::Index;
