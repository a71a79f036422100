//! The built `conjoin` binary, run as a person runs it, on a few of the bundled grocery photos.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adapt;
mod bad_input;
mod console;
mod export;
mod hub;
#[path = "../../../hub/tests/fetch/server.rs"]
mod hub_server;
mod interrupt;
mod models;
mod precision;
mod quality;
mod recipes;
mod rerank;
mod shards;
mod support;
mod vectors;
mod whole_loop;
