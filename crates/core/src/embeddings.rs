//! A matrix of embeddings, one row per item.
//!
//! In:  rows of equal length. Out: row access, normalisation, selection.
//! Not here: similarity search (`conjoin-index`), losses (`conjoin-train`).

/// A dense row-major matrix of embeddings.
///
/// # Shapes
/// `[n, e]`: `n` rows of width `e`. Rows are of unit length where the producer says so (every
/// [`crate::Embedder`] does).
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    width: usize,
    values: Vec<f32>,
}

/// The data of a matrix does not fill whole rows.
#[derive(Debug, thiserror::Error)]
#[error("{values} values do not fill rows of width {width}")]
pub struct ShapeError {
    values: usize,
    width: usize,
}

impl Embeddings {
    /// Wraps row-major values.
    ///
    /// # Errors
    /// When `values` is not a whole number of rows or `width` is zero.
    pub fn new(width: usize, values: Vec<f32>) -> Result<Self, ShapeError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(ShapeError { values: values.len(), width });
        }
        Ok(Self { width, values })
    }

    /// A matrix of zeros, `[n, width]`.
    ///
    /// # Panics
    /// When `width` is zero.
    #[must_use]
    pub fn zeros(n: usize, width: usize) -> Self {
        assert!(width > 0, "an embedding has at least one dimension");
        Self { width, values: vec![0.0; n * width] }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Width of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// One row.
    ///
    /// # Panics
    /// When `row` is out of range.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// One row, writable.
    ///
    /// # Panics
    /// When `row` is out of range.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.width..(row + 1) * self.width]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The row-major values, `n · e`.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The row-major values, writable.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Takes the row-major values out.
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Appends the rows of `other`.
    ///
    /// # Panics
    /// When the widths differ.
    pub fn append(&mut self, other: &Self) {
        assert_eq!(self.width, other.width, "embeddings of different widths");
        self.values.extend_from_slice(&other.values);
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Panics
    /// When an index is out of range.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut values = Vec::with_capacity(indices.len() * self.width);
        for &row in indices {
            values.extend_from_slice(self.row(row));
        }
        Self { width: self.width, values }
    }

    /// The first `width` numbers of every row, scaled to unit length. For vectors of models that were
    /// trained for it (Matryoshka representations); rows of that width stay as they are.
    ///
    /// # Shapes
    /// `[n, e]` to `[n, width]`.
    ///
    /// # Panics
    /// When `width` is zero or more than the rows'.
    #[must_use]
    pub fn cut(self, width: usize) -> Self {
        if width == self.width {
            return self;
        }
        assert!((1..self.width).contains(&width), "rows can only become shorter");
        let values = self.rows().flat_map(|row| row[..width].iter().copied()).collect();
        let mut cut = Self { width, values };
        cut.normalize();
        cut
    }

    /// Scales every row to unit length; a row of zeros stays as it is.
    pub fn normalize(&mut self) {
        for row in self.values.chunks_exact_mut(self.width) {
            let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
            if norm > 0.0 {
                #[expect(clippy::cast_possible_truncation, reason = "the value is stored as f32")]
                let inverse = (1.0 / norm) as f32;
                row.iter_mut().for_each(|v| *v *= inverse);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_ragged_matrix() {
        assert_eq!(
            Embeddings::new(4, vec![0.0; 6]).unwrap_err().to_string(),
            "6 values do not fill rows of width 4"
        );
        assert!(Embeddings::new(0, vec![]).is_err());
    }

    #[test]
    fn normalizes_rows_and_leaves_zero_rows() {
        let mut m = Embeddings::new(2, vec![3.0, 4.0, 0.0, 0.0]).unwrap();
        m.normalize();
        assert_eq!(m.values(), [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn cuts_rows_to_unit_length() {
        let m = Embeddings::new(3, vec![3.0, 4.0, 12.0, 0.0, 2.0, 0.0]).unwrap();
        assert_eq!(m.clone().cut(2).values(), [0.6, 0.8, 0.0, 1.0]);
        assert_eq!(m.clone().cut(3), m);
    }

    #[test]
    fn selects_rows_in_the_asked_order() {
        let m = Embeddings::new(1, vec![1.0, 2.0, 3.0]).unwrap();
        assert_eq!(m.select(&[2, 0, 2]).values(), [3.0, 1.0, 3.0]);
    }
}
