//! The `conjoin` binary.
fn main() {}
