//! The windows of channel-last images as rows, so that a dense convolution or a patch embedding is
//! [`Exec::linear`] behind it. It takes raw pixels and has no backward.
//!
//! Padding is TensorFlow's "same": the missing row or column goes behind (`out = ⌈in / stride⌉`).
//! Patches are windows beside each other; what is left behind the last whole one is not seen.

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

/// Zeros before the first pixel so that `out = ⌈size / stride⌉` windows of `kernel` fit.
pub(crate) fn padding_before(size: usize, kernel: usize, stride: usize) -> usize {
    let covered = (size.div_ceil(stride) - 1) * stride + kernel;
    covered.saturating_sub(size) / 2
}

impl Exec<'_> {
    /// The whole `side × side` squares of images, as rows ordered (y, x, channel).
    ///
    /// # Shapes
    /// `x`: `[b · h · w, c]`, result: `[b · ⌊h/side⌋ · ⌊w/side⌋, side² · c]`.
    ///
    /// # Panics
    /// When `x` is on the tape: there is no backward.
    #[must_use]
    pub fn patches(&self, x: &Tensor, shape: ImageShape, side: usize) -> Tensor {
        assert!(x.node().is_none(), "patches are taken of pixels only");
        assert_eq!(x.rows(), shape.rows(), "a row per pixel");
        let (height, width) = (shape.height / side, shape.width / side);
        let grid = ImageShape { batch: shape.batch, height, width };
        let (c, values) = (x.cols(), x.values());
        let cols = side * side * c;
        let mut y = self.take(grid.rows() * cols);
        simd::for_row_blocks(y.as_mut(), cols, |first, y| {
            for (i, patch) in y.chunks_exact_mut(cols).enumerate() {
                let (image, py, px) = position(first + i, grid);
                for (line, to) in patch.chunks_exact_mut(side * c).enumerate() {
                    let from = shape.row(image, py * side + line, px * side) * c;
                    to.copy_from_slice(&values[from..from + side * c]);
                }
            }
        });
        self.output((grid.rows(), cols), y, None)
    }

    /// The `kernel × kernel` windows of images, "same" padded, as rows ordered (y, x, channel).
    ///
    /// # Shapes
    /// `x`: `[b · h · w, c]`, result: `[b · ⌈h/stride⌉ · ⌈w/stride⌉, kernel² · c]`.
    ///
    /// # Panics
    /// When `x` is on the tape: there is no backward.
    #[must_use]
    pub fn unfold(&self, x: &Tensor, shape: ImageShape, kernel: usize, stride: usize) -> Tensor {
        assert!(x.node().is_none(), "windows are taken of pixels only");
        assert_eq!(x.rows(), shape.rows(), "a row per pixel");
        let (c, out) = (x.cols(), shape.strided(stride));
        let (top, left) = (
            padding_before(shape.height, kernel, stride),
            padding_before(shape.width, kernel, stride),
        );
        let (values, cols) = (x.values(), kernel * kernel * c);
        let mut y = self.take(out.rows() * cols);
        simd::for_row_blocks(y.as_mut(), cols, |first, y| {
            for (i, window) in y.chunks_exact_mut(cols).enumerate() {
                let (image, oy, ox) = position(first + i, out);
                for (ky, line) in window.chunks_exact_mut(kernel * c).enumerate() {
                    let iy = (oy * stride + ky).wrapping_sub(top);
                    for (kx, pixel) in line.chunks_exact_mut(c).enumerate() {
                        let ix = (ox * stride + kx).wrapping_sub(left);
                        if iy < shape.height && ix < shape.width {
                            let row = shape.row(image, iy, ix);
                            pixel.copy_from_slice(&values[row * c..(row + 1) * c]);
                        } else {
                            pixel.fill(0.0);
                        }
                    }
                }
            }
        });
        self.output((out.rows(), cols), y, None)
    }
}

fn position(row: usize, shape: ImageShape) -> (usize, usize, usize) {
    let in_image = row % (shape.height * shape.width);
    (row / (shape.height * shape.width), in_image / shape.width, in_image % shape.width)
}
