//! The tape: what a forward pass must remember, and the way back.
//!
//! In:  nodes pushed by the operations of a recording [`crate::Exec`], in order.
//! Out: gradients of the parameters, by walking the nodes once in reverse.
//! Not here: any derivative; each operation's stands beside its forward, in `ops`.

use std::{borrow::Cow, sync::Arc};

use conjoin_core::{Gradients, Parameter, Values};

use crate::{
    exec::{Exec, ParamId},
    gemm::{PackedMatrix, Precision},
    simd,
    tensor::{Buffer, Pool, Tensor},
    workspace::{Side, Workspace},
};

/// A place on the tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

/// The backward of one recorded operation.
pub(crate) trait Backward: Send {
    /// Takes `dL/dy` of the operation's output and gives `dL/dx` to its inputs and parameters.
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer);
}

/// The record of one forward pass.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Box<dyn Backward>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes)", self.nodes.len())
    }
}

impl Tape {
    pub(crate) fn push(&mut self, node: Box<dyn Backward>) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    /// Adds to `into` the gradients of the parameters, given `dL/dy` for the tensor `y` of this pass.
    ///
    /// # Shapes
    /// `dy`: as `y`.
    ///
    /// # Panics
    /// When `dy` has not the size of `y`.
    pub fn backward(
        self,
        y: &Tensor,
        dy: &[f32],
        parameters: &[Parameter],
        workspace: &Workspace,
        into: &mut Gradients,
    ) {
        assert_eq!(dy.len(), y.values().len(), "a gradient of the size of its tensor");
        let Some(last) = y.node() else { return };
        let mut seed = workspace.pool().take(dy.len());
        seed.as_mut().copy_from_slice(dy);
        let mut cx = BackwardPass { waiting: Vec::new(), parameters, gradients: into, workspace };
        self.walk(last, seed, &mut cx);
    }

    /// Goes from `dy` of a node to all before it. What is given to the nodes' inputs that are no nodes'
    /// outputs ([`Tape::input`]) is left waiting.
    fn walk(self, last: NodeId, dy: Buffer, cx: &mut BackwardPass<'_>) {
        cx.waiting = (0..self.nodes.len()).map(|_| None).collect();
        cx.waiting[last.0] = Some(dy);
        for (idx, node) in self.nodes.into_iter().enumerate().rev() {
            if let Some(dy) = cx.waiting[idx].take() {
                node.backward(cx, dy);
            }
        }
    }

    /// A place for the gradient of a tensor that comes from elsewhere.
    pub(crate) fn input(&mut self) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.push(Box::new(Input { id }))
    }
}

/// Keeps the gradient it is given.
struct Input {
    id: NodeId,
}

impl Backward for Input {
    fn backward(self: Box<Self>, cx: &mut BackwardPass<'_>, dy: Buffer) {
        cx.give(self.id, dy);
    }
}

/// The state of a backward pass.
pub(crate) struct BackwardPass<'a> {
    waiting: Vec<Option<Buffer>>,
    parameters: &'a [Parameter],
    gradients: &'a mut Gradients,
    workspace: &'a Workspace,
}

impl<'a> BackwardPass<'a> {
    pub(crate) fn pool(&self) -> &'a Pool {
        self.workspace.pool()
    }

    /// The way back through a part of the pass, recorded only now: `pass` makes it from `x` once more.
    /// Gives `dL/dx` where `x` has a place on the tape.
    pub(crate) fn through(
        &mut self,
        x: &Tensor,
        dy: Buffer,
        pass: impl FnOnce(&Exec<'a>, &Tensor) -> Tensor,
    ) -> Option<Buffer> {
        let exec = Exec::recording(self.parameters, self.workspace);
        let input = x.node().and_then(|_| exec.input());
        let y = pass(&exec, &x.clone().with_node(input));
        assert_eq!(dy.as_ref().len(), y.values().len(), "the same pass again");
        let last = y.node()?;
        let mut cx = BackwardPass {
            waiting: Vec::new(),
            parameters: self.parameters,
            gradients: &mut *self.gradients,
            workspace: self.workspace,
        };
        drop(y);
        exec.into_tape().walk(last, dy, &mut cx);
        input.and_then(|input| cx.waiting[input.0].take())
    }

    /// The precision of the gradients of a weight.
    pub(crate) fn precision_of(&self, weight: ParamId) -> Precision {
        self.workspace.precision_of(weight).trainable_if(true)
    }

    /// A weight `[n, k]` for `g · W`; `values` are its own or scaled ones.
    pub(crate) fn packed<'v>(
        &self,
        weight: ParamId,
        values: impl FnOnce() -> Cow<'v, [f32]>,
        shape: (usize, usize),
    ) -> Arc<PackedMatrix> {
        self.workspace.packed((weight, Side::Backward, self.precision_of(weight)), values, shape)
    }

    /// The numbers of a parameter, in whatever form they are.
    pub(crate) fn values(&self, id: ParamId) -> &'a Values {
        &self.parameters[id.0].value
    }

    /// The numbers of a parameter.
    pub(crate) fn value(&self, id: ParamId) -> &'a [f32] {
        &self.parameters[id.0].value
    }

    /// A parameter's numbers and its gradient to add to; `None` when it is frozen.
    pub(crate) fn trained(&mut self, id: ParamId) -> Option<(&[f32], &mut [f32])> {
        let gradient = self.gradients.get_mut(id.0)?;
        Some((&self.parameters[id.0].value, gradient))
    }

    /// Hands `dL/dx` to the operation that made `x`; adds if it already has some.
    pub(crate) fn give(&mut self, x: NodeId, dx: Buffer) {
        match &mut self.waiting[x.0] {
            Some(sum) => {
                let dx = dx.as_ref();
                simd::for_row_blocks(
                    sum.as_mut(),
                    1,
                    #[inline(always)]
                    |first, sum| {
                        simd::add_assign(sum, &dx[first..first + sum.len()]);
                    },
                );
            }
            empty @ None => *empty = Some(dx),
        }
    }
}
