//! Image tokens: a class token before each image's patches, and learned positions.
//!
//! `y[image] = [class; patches] + P`.

use crate::{
    Exec, ParamId, Tensor, simd,
    tape::{Backward, BackwardPass, NodeId},
    tensor::Buffer,
};

impl Exec<'_> {
    /// Puts the class token before the patches of each of `b` images and adds positions.
    ///
    /// # Shapes
    /// `patches`: `[b · p, d]`, `class`: `[d]`, `positions`: `[p + 1, d]`, result: `[b · (p + 1), d]`.
    ///
    /// # Panics
    /// When the patches are not the same number per image.
    #[must_use]
    pub fn image_tokens(
        &self,
        patches: &Tensor,
        b: usize,
        class: ParamId,
        positions: ParamId,
    ) -> Tensor {
        let d = patches.cols();
        let p = patches.rows() / b;
        assert_eq!(p * b, patches.rows(), "patches of {b} images");
        let (x, class_token, table) = (patches.values(), self.value(class), self.value(positions));
        let mut y = self.take(b * (p + 1) * d);
        simd::for_row_blocks(y.as_mut(), d, |first, y| {
            for (i, y) in y.chunks_exact_mut(d).enumerate() {
                let (image, token) = ((first + i) / (p + 1), (first + i) % (p + 1));
                let source = match token {
                    0 => class_token,
                    _ => &x[(image * p + token - 1) * d..(image * p + token) * d],
                };
                y.copy_from_slice(source);
                simd::add_assign(y, &table[token * d..(token + 1) * d]);
            }
        });
        let backward = self.records(&[patches], &[class, positions]).then(|| {
            let node = ImageTokens { patches: patches.node(), class, positions, b, p, d };
            Box::new(node) as Box<dyn Backward>
        });
        self.output((b * (p + 1), d), y, backward)
    }
}

struct ImageTokens {
    patches: Option<NodeId>,
    class: ParamId,
    positions: ParamId,
    b: usize,
    p: usize,
    d: usize,
}

impl Backward for ImageTokens {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let (p, d) = (self.p, self.d);
        let images = || dy.as_ref().chunks_exact((p + 1) * d);
        if let Some((_, gradient)) = cx.trained(self.class) {
            images().for_each(|dy| simd::add_assign(gradient, &dy[..d]));
        }
        if let Some((_, gradient)) = cx.trained(self.positions) {
            images().for_each(|dy| simd::add_assign(gradient, dy));
        }
        if let Some(input) = self.patches {
            let mut dx = cx.pool().take(self.b * p * d);
            for (dx, dy) in dx.as_mut().chunks_exact_mut(p * d).zip(images()) {
                dx.copy_from_slice(&dy[d..]);
            }
            cx.give(input, dx);
        }
    }
}
