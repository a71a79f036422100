//! Tests of `calibration`.
