//! Memory for vectors: it begins on a cache line, so that no vector load crosses one.
//!
//! In:  a number of values. Out: a slice of them.

/// Values of one cache line.
const LINE: usize = 16;

/// `f32` values that begin on a cache line.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Memory of `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let values = vec![0.0; len + LINE - 1];
        let start = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        Self { values, start, len }
    }

    /// The first `len` values; what they are is not defined. Grows if there are fewer.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = Self::zeros(len);
        }
        &mut self.as_mut()[..len]
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl AsRef<[f32]> for Aligned {
    fn as_ref(&self) -> &[f32] {
        &self.values[self.start..self.start + self.len]
    }
}

impl AsMut<[f32]> for Aligned {
    fn as_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.len]
    }
}
