//! A decoded picture: 8-bit RGB, row-major.

use crate::{Frame, ImageError};

/// An RGB picture of at least one pixel.
///
/// # Shapes
/// `data` is `[height, width, 3]`, one byte per channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    width: usize,
    height: usize,
    data: Vec<u8>,
    /// Rising numbers of the patches that a tower sees; all where there are none.
    kept: Option<Vec<u32>>,
}

impl Pixels {
    /// Wraps RGB bytes.
    ///
    /// # Errors
    /// When a side is zero or `data` has not exactly `width * height * 3` bytes.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if expected != Some(data.len()) {
            return Err(ImageError::PixelCount { width, height, found: data.len() });
        }
        Ok(Self { width, height, data, kept: None })
    }

    /// A picture of one colour.
    ///
    /// # Panics
    /// When a side is zero.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        assert!(width > 0 && height > 0, "a picture has at least one pixel");
        Self { width, height, data: colour.repeat(width * height), kept: None }
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, writable.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The same picture, of which a tower that cuts it into patches sees these alone. Patches are counted
    /// from 0 along the rows; the numbers rise.
    #[must_use]
    pub fn with_patches(self, kept: Vec<u32>) -> Self {
        Self { kept: Some(kept), ..self }
    }

    /// The patches that are seen, where some are left out.
    #[must_use]
    pub fn kept_patches(&self) -> Option<&[u32]> {
        self.kept.as_deref()
    }

    /// Gives the bytes away.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// One row, `[width, 3]`.
    ///
    /// # Panics
    /// When `y` is not below the height.
    #[must_use]
    pub fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..(y + 1) * self.width * 3]
    }

    /// This picture in the middle of a square of one colour, which must be at least as large.
    pub(crate) fn centred_on(&self, size: usize, colour: [u8; 3]) -> Self {
        let mut canvas = Self::filled(size, size, colour);
        let (left, top) = ((size - self.width) / 2, (size - self.height) / 2);
        for y in 0..self.height {
            let start = ((top + y) * size + left) * 3;
            canvas.data[start..start + self.width * 3].copy_from_slice(self.row(y));
        }
        canvas
    }

    /// A rectangle of this picture.
    pub(crate) fn part(&self, frame: Frame) -> Self {
        let columns = frame.left * 3..(frame.left + frame.width) * 3;
        let rows = frame.top..frame.top + frame.height;
        let data = rows.flat_map(|y| &self.row(y)[columns.clone()]).copied().collect();
        Self { width: frame.width, height: frame.height, data, kept: None }
    }

    /// Mirrors left and right.
    pub(crate) fn flip_horizontally(&mut self) {
        for row in self.data.chunks_exact_mut(self.width * 3) {
            let (pixels, _) = row.as_chunks_mut::<3>();
            pixels.reverse();
        }
    }
}
