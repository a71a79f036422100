//! Tests of the index through its public API.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod crash;
mod damage;
mod format;
mod search;
