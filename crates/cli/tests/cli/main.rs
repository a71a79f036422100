//! The built `conjoin` binary, run as a person runs it, on a few of the bundled grocery photos.

mod adapt;
mod bad_input;
mod console;
mod interrupt;
mod support;
mod whole_loop;
