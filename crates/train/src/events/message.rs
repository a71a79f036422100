//! TensorBoard's `Event` as protocol buffer bytes.
//!
//! In:  time, step, and a version, a start or scalars. Out: the bytes, fields in rising order, zeros left out.
//! Not here: records of a file (`record`).
//! Source: `event.proto` (`Event`: 1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log) and
//!      `summary.proto` (`Summary`: 1 value; `Value`: 1 tag, 2 simple_value).

/// The version from which on readers mind a start record.
const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog::START`.
const START: u64 = 1;

// How a field is written; the low bits of its key.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// An encoded event.
#[derive(Debug)]
pub(super) struct Event(Vec<u8>);

impl Event {
    /// The first event of a file.
    pub(super) fn version(wall_time: f64, step: u64) -> Self {
        let mut event = Self::new(wall_time, step);
        put_bytes(&mut event.0, 3, FILE_VERSION.as_bytes());
        event
    }

    /// Tells that the run starts anew: what was written before of `step` and later steps is void.
    pub(super) fn start(wall_time: f64, step: u64) -> Self {
        let mut event = Self::new(wall_time, step);
        let mut session_log = Vec::new();
        put_varint(&mut session_log, 1, START);
        put_bytes(&mut event.0, 7, &session_log);
        event
    }

    /// Numbers of a step by tag.
    pub(super) fn scalars(wall_time: f64, step: u64, scalars: &[(&str, f32)]) -> Self {
        let mut event = Self::new(wall_time, step);
        let mut summary = Vec::new();
        for (tag, number) in scalars {
            let mut value = Vec::new();
            put_bytes(&mut value, 1, tag.as_bytes());
            put_key(&mut value, 2, FIXED_32);
            value.extend(number.to_le_bytes());
            put_bytes(&mut summary, 1, &value);
        }
        put_bytes(&mut event.0, 5, &summary);
        event
    }

    fn new(wall_time: f64, step: u64) -> Self {
        let mut bytes = Vec::new();
        if wall_time != 0.0 {
            put_key(&mut bytes, 1, FIXED_64);
            bytes.extend(wall_time.to_le_bytes());
        }
        if step != 0 {
            put_varint(&mut bytes, 2, step);
        }
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn put_key(out: &mut Vec<u8>, field: u64, kind: u64) {
    put_number(out, field << 3 | kind);
}

fn put_varint(out: &mut Vec<u8>, field: u64, number: u64) {
    put_key(out, field, VARINT);
    put_number(out, number);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, BYTES);
    put_number(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits per byte, the lowest first; all but the last byte have the high bit.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_take_more_bytes() {
        for (number, expect) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0x80, 1]), (300, vec![0xac, 2])]
        {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(out, expect);
        }
        let mut out = Vec::new();
        put_number(&mut out, u64::MAX);
        assert_eq!(out, [&[0xff; 9][..], &[1]].concat());
    }
}
