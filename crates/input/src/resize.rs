//! Antialiased resampling with the numbers of the Python imaging library.
//!
//! In:  a picture, the size to resize it to, and which part of the result is wanted.
//! Out: that part. Cropping a resized picture and resizing only the crop give the same bytes.
//! Not here: which size and which part (`image_contract`).
//! Source: separable convolution as documented for Pillow's `Image.resize`: the filter's support
//!         grows with the reduction, weights are fixed-point numbers, the horizontal pass comes
//!         first and rounds to bytes. Parity: `testdata/parity/preprocess`, bit-exact with
//!         Pillow 12; Pillow 13 differs by one level where height shrinks much more than width.

use serde::{Deserialize, Serialize};

use crate::Pixels;

/// Bits after the binary point of a weight: 32, less 8 for the pixel and 2 for overshoot.
const FRACTION_BITS: u32 = 32 - 8 - 2;

/// Rows that the horizontal pass works on at a time.
const BLOCK_ROWS: usize = 16;

/// Bytes of one column of such a block.
const LANES: usize = BLOCK_ROWS * 3;

/// How values between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Linear, two neighbours when enlarging.
    Bilinear,
    /// Cubic convolution with a = -0.5, four neighbours when enlarging.
    Bicubic,
}

impl Interpolation {
    /// Neighbours on each side when enlarging.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The weight at a distance.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bilinear | Self::Bicubic => 0.0,
        }
    }
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Columns to the left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Its width.
    pub width: usize,
    /// Its height.
    pub height: usize,
}

impl Frame {
    /// All of a picture of this size.
    #[must_use]
    pub fn whole(width: usize, height: usize) -> Self {
        Self { left: 0, top: 0, width, height }
    }
}

/// Resizes to `width` x `height` and returns the part `wanted` of the result. Only that part is
/// computed, so an extreme aspect ratio costs nothing.
///
/// # Panics
/// When `wanted` is empty or not inside `width` x `height`.
#[must_use]
pub fn resize(
    pixels: &Pixels,
    (width, height): (usize, usize),
    wanted: Frame,
    interpolation: Interpolation,
) -> Pixels {
    assert!(wanted.width > 0 && wanted.left + wanted.width <= width, "{wanted:?} in {width} wide");
    assert!(
        wanted.height > 0 && wanted.top + wanted.height <= height,
        "{wanted:?} in {height} high"
    );
    let columns = Weights::new(pixels.width(), width, (wanted.left, wanted.width), interpolation);
    let rows = Weights::new(pixels.height(), height, (wanted.top, wanted.height), interpolation);
    let data = pulp::Arch::new().dispatch(|| {
        let narrow = resize_columns(pixels, &columns, rows.reach());
        resize_rows(&narrow, wanted.width * 3, &rows)
    });
    Pixels::new(wanted.width, wanted.height, data).expect("both passes give the wanted size")
}

/// For each output position, the run of input positions it is made of and their weights.
struct Weights {
    /// First input position and number of positions, per output position.
    runs: Vec<(usize, usize)>,
    /// The weights of output `i` start at `i * stride`.
    stride: usize,
    values: Vec<i32>,
}

impl Weights {
    /// Weights of outputs `start..start + n` when `n_in` positions become `n_out`.
    fn new(n_in: usize, n_out: usize, (start, n): (usize, usize), kind: Interpolation) -> Self {
        let scale = n_in as f64 / n_out as f64;
        let filter_scale = scale.max(1.0);
        let support = kind.support() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut runs = Vec::with_capacity(n);
        let mut values = vec![0; n * stride];
        let mut exact = Vec::with_capacity(stride);
        for (out, fixed) in (start..start + n).zip(values.chunks_exact_mut(stride)) {
            let centre = (out as f64 + 0.5) * scale;
            // Casts saturate at zero, which is the left edge.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(n_in);
            exact.clear();
            exact.extend(
                (first..end).map(|x| kind.weight((x as f64 - centre + 0.5) * (1.0 / filter_scale))),
            );
            let sum: f64 = exact.iter().sum();
            for (to, weight) in fixed.iter_mut().zip(&exact) {
                *to = to_fixed(if sum == 0.0 { *weight } else { weight / sum });
            }
            runs.push((first, end - first));
        }
        Self { runs, stride, values }
    }

    fn of(&self, out: usize) -> (usize, &[i32]) {
        let (first, n) = self.runs[out];
        (first, &self.values[out * self.stride..][..n])
    }

    /// First input position used, and one past the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.runs.iter().map(|run| run.0).min();
        let end = self.runs.iter().map(|run| run.0 + run.1).max();
        first.zip(end).expect("at least one output is wanted")
    }
}

/// Rounds halves away from zero.
fn to_fixed(weight: f64) -> i32 {
    (weight * f64::from(1 << FRACTION_BITS)).round() as i32
}

/// A sum of weighted bytes, as a byte.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// One half, so that the shift in [`to_byte`] rounds.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// Rows of the picture with new columns, and which row is the first.
struct Narrow {
    first_row: usize,
    data: Vec<u8>,
}

/// The horizontal pass over rows `reach`. It works on blocks of rows that are stored column by
/// column, so that the innermost loop runs over neighbouring bytes with one weight.
#[inline(always)]
fn resize_columns(pixels: &Pixels, columns: &Weights, reach: (usize, usize)) -> Narrow {
    let n_rows = reach.1 - reach.0;
    let width = columns.runs.len();
    let mut data = vec![0; n_rows * width * 3];
    let (first_column, end_column) = columns.reach();
    let mut block = vec![[0_u8; LANES]; end_column - first_column];
    for (i, into) in data.chunks_mut(BLOCK_ROWS * width * 3).enumerate() {
        let top = reach.0 + i * BLOCK_ROWS;
        for lane in 0..into.len() / (width * 3) {
            let row = &pixels.row(top + lane)[first_column * 3..end_column * 3];
            for (column, pixel) in block.iter_mut().zip(row.as_chunks::<3>().0) {
                column[lane * 3..lane * 3 + 3].copy_from_slice(pixel);
            }
        }
        for out in 0..width {
            let (first, weights) = columns.of(out);
            let mut sums = [HALF; LANES];
            for (column, &weight) in block[first - first_column..].iter().zip(weights) {
                for (sum, &byte) in sums.iter_mut().zip(column) {
                    *sum += i32::from(byte) * weight;
                }
            }
            let bytes = sums.map(to_byte);
            for (row, pixel) in into.chunks_exact_mut(width * 3).zip(bytes.as_chunks::<3>().0) {
                row[out * 3..out * 3 + 3].copy_from_slice(pixel);
            }
        }
    }
    Narrow { first_row: reach.0, data }
}

/// The vertical pass, over rows of `stride` bytes.
#[inline(always)]
fn resize_rows(narrow: &Narrow, stride: usize, rows: &Weights) -> Vec<u8> {
    const CHUNK: usize = 64;
    let mut data = vec![0; rows.runs.len() * stride];
    for (out, into) in data.chunks_exact_mut(stride).enumerate() {
        let (first, weights) = rows.of(out);
        let source = &narrow.data[(first - narrow.first_row) * stride..];
        let (chunks, rest) = into.as_chunks_mut::<CHUNK>();
        for (i, chunk) in chunks.iter_mut().enumerate() {
            let mut sums = [HALF; CHUNK];
            for (row, &weight) in source.chunks_exact(stride).zip(weights) {
                let bytes = &row[i * CHUNK..(i + 1) * CHUNK];
                for (sum, &byte) in sums.iter_mut().zip(bytes) {
                    *sum += i32::from(byte) * weight;
                }
            }
            *chunk = sums.map(to_byte);
        }
        let done = stride - rest.len();
        for (i, to) in rest.iter_mut().enumerate() {
            let column = source.iter().skip(done + i).step_by(stride);
            let sum = column.zip(weights).map(|(&byte, &weight)| i32::from(byte) * weight);
            *to = to_byte(HALF + sum.sum::<i32>());
        }
    }
    data
}
