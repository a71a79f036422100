//! Tests of `augment`.
