//! Rows to unit length: `y = x / ‖x‖`.
//!
//! Backward: `dx = (dy − y (y · dy)) / ‖x‖`. A row shorter than [`SHORTEST`] is divided by that
//! instead, as PyTorch's `normalize` does; its gradient is then `dy / SHORTEST`.

use crate::{
    Exec, Tensor, simd,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

/// The smallest norm divided by.
const SHORTEST: f32 = 1e-12;

impl Exec<'_> {
    /// Scales every row to unit length.
    ///
    /// # Shapes
    /// `x`, result: `[b, e]`.
    #[must_use]
    pub fn normalize(&self, x: &Tensor) -> Tensor {
        let (cols, values) = (x.cols(), x.values());
        let mut y = self.take(values.len());
        simd::for_row_blocks(
            y.as_mut(),
            cols,
            #[inline(always)]
            |first, y| {
                for (y, x) in
                    y.chunks_exact_mut(cols).zip(values[first * cols..].chunks_exact(cols))
                {
                    let inverse = 1.0 / norm(x);
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = x * inverse;
                    }
                }
            },
        );
        let backward = self
            .records(&[x], &[])
            .then(|| Box::new(Normalize { x: x.clone() }) as Box<dyn Backward>);
        self.output((x.rows(), cols), y, backward)
    }
}

#[inline(always)]
fn norm(x: &[f32]) -> f32 {
    simd::dot(x, x).sqrt().max(SHORTEST)
}

struct Normalize {
    x: Tensor,
}

impl Backward for Normalize {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, mut dy: Buffer) {
        let Some(input) = self.x.node() else { return };
        let (cols, values) = (self.x.cols(), self.x.values());
        simd::for_row_blocks(
            dy.as_mut(),
            cols,
            #[inline(always)]
            |first, dy| {
                for (dy, x) in
                    dy.chunks_exact_mut(cols).zip(values[first * cols..].chunks_exact(cols))
                {
                    let inverse = 1.0 / norm(x);
                    let along = simd::dot(dy, x) * inverse * inverse;
                    for (dy, x) in dy.iter_mut().zip(x) {
                        *dy = (*dy - x * along) * inverse;
                    }
                }
            },
        );
        cx.give(input, dy);
    }
}
