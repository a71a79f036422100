//! Matrices whose memory is reused.
//!
//! In:  sizes. Out: [`Tensor`], shared and immutable once made; its memory goes back to the
//! [`Pool`] when the last holder drops it, so that a steady state allocates nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{aligned::Aligned, tape::NodeId};

/// Memory that was used and can be used again. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Mutex<Store>>);

#[derive(Debug, Default)]
struct Store {
    /// Buffers that nobody holds, by their number of values.
    free: BTreeMap<usize, Vec<Aligned>>,
    /// Values of all buffers that somebody holds.
    lent: usize,
    /// The most there have ever been.
    most_lent: usize,
}

impl Pool {
    /// A buffer of `len` values; what they are is not defined.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let class = size_class(len);
        let reused = self.lock().lend(class);
        let values = reused.unwrap_or_else(|| Aligned::zeros(class));
        Buffer { values, len, pool: self.clone() }
    }

    /// Bytes that tensors, tapes and packed weights hold now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.lock().lent * size_of::<f32>()
    }

    /// The most that [`Pool::held_bytes`] has been.
    #[must_use]
    pub fn most_held_bytes(&self) -> usize {
        self.lock().most_lent * size_of::<f32>()
    }

    /// A buffer of `len` zeros.
    pub(crate) fn zeros(&self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.as_mut().fill(0.0);
        buffer
    }

    /// A tensor holding a copy of `values`, `[rows, values.len() / rows]`.
    ///
    /// # Panics
    /// When `values` does not fill whole rows.
    #[must_use]
    pub fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Tensor {
        assert_eq!(values.len(), rows * cols, "a [{rows}, {cols}] tensor");
        let mut buffer = self.take(values.len());
        buffer.as_mut().copy_from_slice(values);
        Tensor::new(rows, cols, buffer, None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Counts a buffer of a size class as lent, and gives one if there is one.
    fn lend(&mut self, class: usize) -> Option<Aligned> {
        self.lent += class;
        self.most_lent = self.most_lent.max(self.lent);
        self.free.get_mut(&class).and_then(Vec::pop)
    }

    fn take_back(&mut self, values: Aligned) {
        self.lent -= values.len();
        self.free.entry(values.len()).or_default().push(values);
    }
}

/// Rounds up to one of four sizes per power of two, so that buffers fit again.
fn size_class(len: usize) -> usize {
    let len = len.max(64);
    let step = (len.next_power_of_two() / 8).max(1);
    len.next_multiple_of(step)
}

/// Writable memory of a [`Pool`].
#[derive(Debug)]
pub(crate) struct Buffer {
    values: Aligned,
    len: usize,
    pool: Pool,
}

impl Buffer {
    /// Makes it at least `len` long; what the values are is then not defined.
    pub(crate) fn at_least(&mut self, len: usize) {
        if self.values.len() < len {
            *self = self.pool.clone().take(len);
        }
        self.len = self.len.max(len);
    }
}

impl AsRef<[f32]> for Buffer {
    fn as_ref(&self) -> &[f32] {
        &self.values.as_ref()[..self.len]
    }
}

impl AsMut<[f32]> for Buffer {
    fn as_mut(&mut self) -> &mut [f32] {
        &mut self.values.as_mut()[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.pool.lock().take_back(values);
    }
}

/// A matrix, `[rows, cols]`, row-major.
///
/// Cloning shares the memory. A tensor made while recording knows its place on the tape.
#[derive(Debug, Clone)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    data: Arc<Buffer>,
    node: Option<NodeId>,
}

impl Tensor {
    pub(crate) fn new(rows: usize, cols: usize, data: Buffer, node: Option<NodeId>) -> Self {
        debug_assert_eq!(data.len, rows * cols);
        Self { rows, cols, data: Arc::new(data), node }
    }

    /// The same values at another place on the tape.
    pub(crate) fn with_node(mut self, node: Option<NodeId>) -> Self {
        self.node = node;
        self
    }

    pub(crate) fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The row-major values.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        (*self.data).as_ref()
    }

    /// One row.
    ///
    /// # Panics
    /// When `row` is out of range.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values()[row * self.cols..(row + 1) * self.cols]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        let pool = Pool::default();
        let first = pool.tensor(2, 50, &[1.0; 100]);
        let address = first.values().as_ptr();
        let shared = first.clone();
        drop(first);
        assert_ne!(pool.take(100).as_ref().as_ptr(), address, "a holder is left");
        drop(shared);
        let reused: Vec<_> = (0..2).map(|_| pool.take(97)).collect();
        assert!(reused.iter().any(|b| b.as_ref().as_ptr() == address));
        assert!(reused.iter().all(|b| b.as_ref().len() == 97));
    }

    #[test]
    fn size_classes_waste_at_most_a_quarter() {
        for len in 64..5000 {
            let class = size_class(len);
            assert!(class >= len && class * 4 <= len * 5 + 4, "{len} -> {class}");
        }
    }
}
