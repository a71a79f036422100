//! Residual connection: `y = a + b`.

use crate::{
    Exec, Tensor, simd,
    tape::{Backward, BackwardPass, NodeId},
    tensor::Buffer,
};

impl Exec<'_> {
    /// Adds two tensors of one shape.
    ///
    /// # Shapes
    /// `a`, `b`, result: `[m, n]`.
    ///
    /// # Panics
    /// When the shapes differ.
    #[must_use]
    pub fn add(&self, a: &Tensor, b: &Tensor) -> Tensor {
        assert!(a.rows() == b.rows() && a.cols() == b.cols(), "addends of one shape");
        let mut out = self.take(a.values().len());
        let (x, y) = (a.values(), b.values());
        simd::for_row_blocks(
            out.as_mut(),
            1,
            #[inline(always)]
            |first, out| {
                let range = first..first + out.len();
                for ((o, x), y) in out.iter_mut().zip(&x[range.clone()]).zip(&y[range]) {
                    *o = x + y;
                }
            },
        );
        let backward = self
            .records(&[a, b], &[])
            .then(|| Box::new(Add { inputs: [a.node(), b.node()] }) as Box<dyn Backward>);
        self.output((a.rows(), a.cols()), out, backward)
    }
}

struct Add {
    inputs: [Option<NodeId>; 2],
}

impl Backward for Add {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        if let [Some(a), Some(b)] = self.inputs {
            let mut copy = cx.pool().take(dy.as_ref().len());
            copy.as_mut().copy_from_slice(dy.as_ref());
            cx.give(b, copy);
            cx.give(a, dy);
        } else if let Some(x) = self.inputs.into_iter().flatten().next() {
            cx.give(x, dy);
        }
    }
}
