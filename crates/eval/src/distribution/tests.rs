//! Tests of `distribution`.
