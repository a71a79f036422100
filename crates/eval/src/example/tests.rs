//! Tests of `example`.
