//! Tests of `image_contract`.
