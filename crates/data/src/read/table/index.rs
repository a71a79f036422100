//! Where the usable rows of a file are: 8 bytes a row.
//!
//! In:  position and line of each usable row, in their order. Out: the same by the row's number.

/// Positions of rows, and their lines.
///
/// Lines mostly go up by one from row to row; only where they do not, one is written down.
#[derive(Debug, Default)]
pub(crate) struct RowIndex {
    starts: Vec<u64>,
    /// `(row, line)` wherever a row's line is not the line of the row before plus one.
    jumps: Vec<(usize, u64)>,
}

impl RowIndex {
    pub(crate) fn push(&mut self, start: u64, line: u64) {
        let row = self.starts.len();
        if row == 0 || self.line(row) != line {
            self.jumps.push((row, line));
        }
        self.starts.push(start);
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The line of a row, from 1; for the row after the last the line it would have without a jump.
    pub(crate) fn line(&self, row: usize) -> u64 {
        let after = self.jumps.partition_point(|(first, _)| *first <= row);
        let (first, line) = self.jumps[after - 1];
        line + (row - first) as u64
    }

    /// The bytes from a row up to the next usable one.
    pub(crate) fn span(&self, row: usize, n_bytes: u64) -> (u64, u64) {
        let end = self.starts.get(row + 1).copied().unwrap_or(n_bytes);
        (self.starts[row], end)
    }

    /// Gives back the room that growing left over.
    pub(crate) fn shrink(&mut self) {
        self.starts.shrink_to_fit();
        self.jumps.shrink_to_fit();
    }
}
