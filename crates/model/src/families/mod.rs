//! The public layouts this build reads, one file each.
//!
//! A family turns its configuration into a spec and its tensor names into ours; the forward is the
//! same for all.

pub mod bert;
pub mod clip;
pub mod mobilenet;
