//! Image tokens: a class token before each image's patches, if there is one, and learned positions.
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
    /// `patches`: `[b · p, d]`, `class`: `[d]`, `positions`: `[t, d]`, result: `[b · t, d]` with
    /// `t = p + 1`, or `p` without a class token.
    ///
    /// # Panics
    /// When the patches are not the same number per image.
    #[must_use]
    pub fn image_tokens(
        &self,
        patches: &Tensor,
        b: usize,
        class: Option<ParamId>,
        positions: ParamId,
    ) -> Tensor {
        let d = patches.cols();
        let p = patches.rows() / b;
        assert_eq!(p * b, patches.rows(), "patches of {b} images");
        let (x, table) = (patches.values(), self.value(positions));
        let class_token = class.map(|class| self.value(class));
        let before = usize::from(class.is_some());
        let t = p + before;
        let mut y = self.take(b * t * d);
        simd::for_row_blocks(
            y.as_mut(),
            d,
            #[inline(always)]
            |first, y| {
                for (i, y) in y.chunks_exact_mut(d).enumerate() {
                    let (image, token) = ((first + i) / t, (first + i) % t);
                    let source = match class_token {
                        Some(class) if token == 0 => class,
                        Some(_) | None => &x[(image * p + token - before) * d..][..d],
                    };
                    y.copy_from_slice(source);
                    simd::add_assign(y, &table[token * d..(token + 1) * d]);
                }
            },
        );
        let own: Vec<_> = class.into_iter().chain([positions]).collect();
        let backward = self.records(&[patches], &own).then(|| {
            let node = ImageTokens { patches: patches.node(), class, positions, b, p, d };
            Box::new(node) as Box<dyn Backward>
        });
        self.output((b * t, d), y, backward)
    }
}

struct ImageTokens {
    patches: Option<NodeId>,
    class: Option<ParamId>,
    positions: ParamId,
    b: usize,
    p: usize,
    d: usize,
}

impl Backward for ImageTokens {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let (p, d) = (self.p, self.d);
        let before = usize::from(self.class.is_some());
        let images = || dy.as_ref().chunks_exact((p + before) * d);
        if let Some((_, gradient)) = self.class.and_then(|class| cx.trained(class)) {
            images().for_each(|dy| simd::add_assign(gradient, &dy[..d]));
        }
        if let Some((_, gradient)) = cx.trained(self.positions) {
            images().for_each(|dy| simd::add_assign(gradient, dy));
        }
        if let Some(input) = self.patches {
            let mut dx = cx.pool().take(self.b * p * d);
            for (dx, dy) in dx.as_mut().chunks_exact_mut(p * d).zip(images()) {
                dx.copy_from_slice(&dy[before * d..]);
            }
            cx.give(input, dx);
        }
    }
}
