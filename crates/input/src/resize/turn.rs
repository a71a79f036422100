//! One pass of resampling: new columns, and the picture turned over its diagonal. Two passes are a resize.
//!
//! In:  rows of RGB pixels, which pixels each new column is made of. Out: the new columns as rows.
//! Not here: the weights (`resize`), the multiply-adds (`kernels`).
//!
//! Sixteen rows are worked on at a time, stored so that four neighbouring bytes of one row and channel lie
//! together: that is what multiply-add instructions take, with one set of weights for all rows and channels.

mod kernels;

use self::kernels::Kernel;
use super::Weights;

/// Rows worked on at a time.
const ROWS: usize = 16;

/// Sums of a block: one for each row and channel.
const LANES: usize = ROWS * 3;

/// Neighbouring pixels that lie together.
const TAPS: usize = 4;

/// Groups that are filled together, so that they stay near: 12 KiB.
const GROUPS: usize = 64;

/// Four neighbouring pixels of a block of rows: for each row and channel four bytes, as one number.
type Group = [i32; LANES];

/// Makes the new columns of rows of `stride` bytes.
///
/// # Shapes
/// `rows`: `[n, stride]`, of which the pixels from `weights.origin` are used; result: `[columns, n, 3]`, each line
/// filled up to whole blocks: [`line_bytes`].
pub(super) fn turn(rows: &[u8], stride: usize, weights: &Weights) -> Vec<u8> {
    turn_by(Kernel::best(), rows, stride, weights)
}

/// Bytes from one line of a turned picture to the next.
pub(super) fn line_bytes(n_rows: usize) -> usize {
    n_rows.div_ceil(ROWS) * LANES
}

fn turn_by(kernel: Kernel, rows: &[u8], stride: usize, weights: &Weights) -> Vec<u8> {
    let columns = Columns::new(weights, kernel);
    let used = weights.origin * 3..(weights.origin + weights.reach) * 3;
    let line = line_bytes(rows.len() / stride);
    let mut out = vec![0; weights.runs.len() * line];
    let mut groups = vec![[0; LANES]; columns.n_groups(weights.reach)];
    for (block, rows) in rows.chunks(ROWS * stride).enumerate() {
        for (piece, groups) in groups.chunks_mut(GROUPS).enumerate() {
            let used = used.start + piece * GROUPS * TAPS * 3..used.end;
            for (row, pixels) in rows.chunks_exact(stride).enumerate() {
                kernel.gather(pixels.get(used.clone()).unwrap_or_default(), row, groups);
            }
        }
        let to = Lines { out: &mut out[block * LANES..], line };
        kernel.sum(&groups, &columns, to);
    }
    out
}

/// Which groups each column is made of, and their weights as the kernel takes them.
struct Columns {
    starts: Vec<usize>,
    /// Groups per column, the same for all; those that are not needed have no weight.
    n: usize,
    weights: Vec<[i32; TAPS]>,
}

impl Columns {
    fn new(weights: &Weights, kernel: Kernel) -> Self {
        let span = |(first, n): &(usize, usize)| (first % TAPS + n).div_ceil(TAPS);
        let n = weights.runs.iter().map(span).max().unwrap_or(0);
        let mut columns = Self { starts: Vec::new(), n, weights: Vec::new() };
        let mut taps = vec![0; n * TAPS];
        for out in 0..weights.runs.len() {
            let (first, values) = weights.of(out);
            taps.fill(0);
            taps[first % TAPS..][..values.len()].copy_from_slice(values);
            columns.starts.push(first / TAPS);
            columns.weights.extend(taps.as_chunks().0.iter().map(|taps| kernel.digits(*taps)));
        }
        columns
    }

    /// Groups of a block of this many pixels: those that hold them, and those without weight behind.
    fn n_groups(&self, n_pixels: usize) -> usize {
        let end = self.starts.iter().max().map_or(0, |start| start + self.n);
        end.max(n_pixels.div_ceil(TAPS))
    }

    /// For each column its groups and their weights.
    #[inline(always)]
    fn of<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> impl Iterator<Item = (&'a [Group], &'a [[i32; TAPS]])> {
        let spans = self.starts.iter().map(|start| &groups[*start..start + self.n]);
        spans.zip(self.weights.chunks_exact(self.n))
    }
}

/// Where the sums of a block of rows go.
struct Lines<'a> {
    out: &'a mut [u8],
    line: usize,
}

impl Lines<'_> {
    /// The place of each column in turn.
    #[inline(always)]
    fn iter(&mut self) -> impl Iterator<Item = &mut [u8; LANES]> {
        self.out.chunks_mut(self.line).filter_map(<[u8]>::first_chunk_mut)
    }
}

#[cfg(test)]
mod tests;
