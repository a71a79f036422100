//! Tests of `bootstrap`.
