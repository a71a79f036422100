//! Parts of a pass that keep their input alone and are computed once more on the way back.
//!
//! In:  a tensor, and the operations that follow from it. Out: what they make of it.
//! The gradients are those of a plain recording, bit for bit: the same operations on the same numbers in
//! the same order.
//! Source: Chen et al. 2016, §3 (a segment per layer).

use crate::{
    Exec, Tensor,
    tape::{Backward, BackwardPass},
    tensor::Buffer,
};

/// A part of a pass.
type Part = Box<dyn Fn(&Exec<'_>, &Tensor) -> Tensor + Send>;

impl Exec<'_> {
    /// Runs `part` on `x`. Where the workspace checkpoints and the pass records, only `x` is kept, and
    /// `part` runs again on the way back; elsewhere this is `part(self, x)`.
    ///
    /// `part` must make the same of the same numbers, and read no tensor of the pass but `x`.
    ///
    /// # Shapes
    /// `x` and the result: as `part` says.
    #[must_use]
    pub fn checkpointed(
        &self,
        x: &Tensor,
        part: impl Fn(&Exec<'_>, &Tensor) -> Tensor + Send + 'static,
    ) -> Tensor {
        if !self.checkpoints() {
            return part(self, x);
        }
        let rehearsal = self.rehearsing();
        let y = part(&rehearsal, x);
        let gives = y.node().is_some() || rehearsal.would_have_recorded();
        let backward = gives.then(|| {
            let node = Checkpoint { x: x.clone(), part: Box::new(part) };
            Box::new(node) as Box<dyn Backward>
        });
        self.record(y.with_node(None), backward)
    }
}

struct Checkpoint {
    x: Tensor,
    part: Part,
}

impl Backward for Checkpoint {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        let dx = cx.through(&self.x, dy, self.part);
        if let (Some(input), Some(dx)) = (self.x.node(), dx) {
            cx.give(input, dx);
        }
    }
}
