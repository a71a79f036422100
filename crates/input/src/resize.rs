//! Antialiased resampling with the numbers of the Python imaging library.
//!
//! In:  a picture, the size to resize it to, and which part of the result is wanted.
//! Out: that part. Cropping a resized picture and resizing only the crop give the same bytes.
//! Not here: which size and which part (`image_contract`).
//! Source: separable convolution as documented for Pillow's `Image.resize`: the filter's support
//!         grows with the reduction, weights are fixed-point numbers, the horizontal pass comes
//!         first and rounds to bytes. Parity: `testdata/parity/preprocess`, bit-exact with
//!         Pillow 12; Pillow 13 differs by one level where height shrinks much more than width.

mod turn;

use serde::{Deserialize, Serialize};

use self::turn::{line_bytes, turn};
use crate::Pixels;

/// Bits after the binary point of a weight: 32, less 8 for the pixel and 2 for overshoot.
const FRACTION_BITS: u32 = 32 - 8 - 2;

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
    let stride = pixels.width() * 3;
    let used = rows.origin * stride..(rows.origin + rows.reach) * stride;
    let narrow = turn(&pixels.data()[used], stride, &columns); // [columns, rows, 3]
    let lines = turn(&narrow, line_bytes(rows.reach), &rows.at_origin()); // [rows, columns, 3]
    let data = without_filling(lines, wanted.width);
    Pixels::new(wanted.width, wanted.height, data).expect("both passes give the wanted size")
}

/// Rows of `width` pixels beside each other.
fn without_filling(lines: Vec<u8>, width: usize) -> Vec<u8> {
    let filled = line_bytes(width);
    if filled == width * 3 {
        return lines;
    }
    lines.chunks_exact(filled).flat_map(|line| &line[..width * 3]).copied().collect()
}

/// For each output position, the run of input positions it is made of and their weights.
struct Weights {
    /// First input position that is used.
    origin: usize,
    /// Input positions from there to the last one used.
    reach: usize,
    /// First input position, counted from the origin, and number of positions, per output position.
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
        let origin = runs.iter().map(|run| run.0).min().unwrap_or(0);
        runs.iter_mut().for_each(|run| run.0 -= origin);
        let reach = runs.iter().map(|run| run.0 + run.1).max().unwrap_or(0);
        Self { origin, reach, runs, stride, values }
    }

    fn of(&self, out: usize) -> (usize, &[i32]) {
        let (first, n) = self.runs[out];
        (first, &self.values[out * self.stride..][..n])
    }

    /// The same for an input that begins at the origin.
    fn at_origin(self) -> Self {
        Self { origin: 0, ..self }
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
