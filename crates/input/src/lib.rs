//! Bytes to arrays: image decoding and resizing, tokenisers and the input contract of a checkpoint.
