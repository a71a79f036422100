//! The windows of pictures as rows, so that a dense convolution or a patch embedding is [`Exec::linear`]
//! behind it. They are written from bytes at once: no picture of numbers is made. There is no backward.
//!
//! Padding is TensorFlow's "same": the missing row or column goes behind (`out = ⌈in / stride⌉`).
//! Patches are windows beside each other; what is left behind the last whole one is not seen.

use std::fmt;

use crate::{Exec, Tensor, simd};

/// The geometry of a batch of images whose pixels are the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// Number of images.
    pub batch: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
}

impl ImageShape {
    /// The shape after a "same" convolution with this stride.
    #[must_use]
    pub fn strided(self, stride: usize) -> Self {
        let (height, width) = (self.height.div_ceil(stride), self.width.div_ceil(stride));
        Self { height, width, ..self }
    }

    /// Rows of the tensor: all pixels of all images.
    #[must_use]
    pub fn rows(self) -> usize {
        self.batch * self.height * self.width
    }

    pub(crate) fn row(self, image: usize, y: usize, x: usize) -> usize {
        (image * self.height + y) * self.width + x
    }
}

/// What number each of the 256 levels of each channel stands for.
pub type Levels = [[f32; 256]; 3];

/// RGB pictures of one size, in bytes.
#[derive(Clone, Copy)]
pub struct Pictures<'a> {
    bytes: &'a [&'a [u8]],
    shape: ImageShape,
    levels: &'a Levels,
}

impl fmt::Debug for Pictures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pictures").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl<'a> Pictures<'a> {
    /// Pictures of `height` × `width` pixels.
    ///
    /// # Shapes
    /// Each of `bytes`: `[height, width, 3]`.
    ///
    /// # Panics
    /// When one has another size.
    #[must_use]
    pub fn new(bytes: &'a [&'a [u8]], (height, width): (usize, usize), levels: &'a Levels) -> Self {
        let n = height * width * 3;
        assert!(bytes.iter().all(|b| b.len() == n), "{width} × {height} pixels of three bytes");
        Self { bytes, shape: ImageShape { batch: bytes.len(), height, width }, levels }
    }

    /// How many there are, and their size.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// The numbers of the pixels that begin at `(y, x)`, as many as `to` takes.
    #[inline(always)]
    fn read(&self, image: usize, (y, x): (usize, usize), to: &mut [f32]) {
        let from = &self.bytes[image][(y * self.shape.width + x) * 3..][..to.len()];
        let [red, green, blue] = self.levels;
        for (to, from) in to.as_chunks_mut::<3>().0.iter_mut().zip(from.as_chunks::<3>().0) {
            let [r, g, b] = from.map(usize::from);
            *to = [red[r], green[g], blue[b]];
        }
    }
}

/// Zeros before the first pixel so that `out = ⌈size / stride⌉` windows of `kernel` fit.
pub(crate) fn padding_before(size: usize, kernel: usize, stride: usize) -> usize {
    let covered = (size.div_ceil(stride) - 1) * stride + kernel;
    covered.saturating_sub(size) / 2
}

impl Exec<'_> {
    /// The whole `side × side` squares of pictures, as rows ordered (y, x, channel).
    ///
    /// # Shapes
    /// Pictures of `[h, w, 3]` to `[b · ⌊h/side⌋ · ⌊w/side⌋, side² · 3]`.
    #[must_use]
    pub fn patches(&self, pictures: &Pictures<'_>, side: usize) -> Tensor {
        let shape = pictures.shape;
        let (height, width) = (shape.height / side, shape.width / side);
        let grid = ImageShape { height, width, ..shape };
        let cols = side * side * 3;
        let mut y = self.take(grid.rows() * cols);
        simd::for_row_blocks(
            y.as_mut(),
            cols,
            #[inline(always)]
            |first, y| {
                for (i, patch) in y.chunks_exact_mut(cols).enumerate() {
                    let (image, py, px) = position(first + i, grid);
                    for (line, to) in patch.chunks_exact_mut(side * 3).enumerate() {
                        pictures.read(image, (py * side + line, px * side), to);
                    }
                }
            },
        );
        self.output((grid.rows(), cols), y, None)
    }

    /// The `kernel × kernel` windows of pictures, "same" padded with zeros, as rows ordered
    /// (y, x, channel).
    ///
    /// # Shapes
    /// Pictures of `[h, w, 3]` to `[b · ⌈h/stride⌉ · ⌈w/stride⌉, kernel² · 3]`.
    #[must_use]
    pub fn windows(&self, pictures: &Pictures<'_>, kernel: usize, stride: usize) -> Tensor {
        let (shape, out) = (pictures.shape, pictures.shape.strided(stride));
        let (top, left) = (
            padding_before(shape.height, kernel, stride),
            padding_before(shape.width, kernel, stride),
        );
        let cols = kernel * kernel * 3;
        let mut y = self.take(out.rows() * cols);
        simd::for_row_blocks(
            y.as_mut(),
            cols,
            #[inline(always)]
            |first, y| {
                for (i, window) in y.chunks_exact_mut(cols).enumerate() {
                    let (image, oy, ox) = position(first + i, out);
                    let (before, end) = inside(ox * stride, left, shape.width, kernel);
                    for (ky, line) in window.chunks_exact_mut(kernel * 3).enumerate() {
                        let iy = (oy * stride + ky).wrapping_sub(top);
                        if iy >= shape.height {
                            line.fill(0.0);
                            continue;
                        }
                        line[..before * 3].fill(0.0);
                        line[end * 3..].fill(0.0);
                        let ix = ox * stride + before - left;
                        pictures.read(image, (iy, ix), &mut line[before * 3..end * 3]);
                    }
                }
            },
        );
        self.output((out.rows(), cols), y, None)
    }
}

/// Which of a window's `kernel` columns are inside a picture of `width`: from the first to before the second.
fn inside(start: usize, left: usize, width: usize, kernel: usize) -> (usize, usize) {
    (left.saturating_sub(start), kernel.min(width + left - start))
}

fn position(row: usize, shape: ImageShape) -> (usize, usize, usize) {
    let in_image = row % (shape.height * shape.width);
    (row / (shape.height * shape.width), in_image / shape.width, in_image % shape.width)
}
