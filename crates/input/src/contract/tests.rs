//! Tests of `contract`.
