//! Where operations run: the parameters they read, the memory they use, the tape they may write.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    ops::Range,
    sync::Arc,
};

use conjoin_core::{Parameter, Values};

use crate::{
    gemm::{PackedMatrix, Precision},
    tape::{Backward, NodeId, Tape},
    tensor::{Buffer, Pool, Tensor},
    workspace::{Side, Trial, Workspace},
};

/// The index of a parameter in its model's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// One forward pass.
///
/// Operations are methods, each in its file under `ops`. Operations run on all threads inside and in
/// order outside; an `Exec` belongs to one thread.
#[derive(Debug)]
pub struct Exec<'p> {
    parameters: &'p [Parameter],
    workspace: &'p Workspace,
    memory: Memory,
}

/// What a pass remembers.
#[derive(Debug)]
enum Memory {
    /// Nothing: it is for inference.
    Nothing,
    /// Nothing but whether there would have been something: the pass is recorded later, on the way back.
    Rehearsal(Cell<bool>),
    /// All that its backward needs.
    Tape(RefCell<Tape>),
}

impl<'p> Exec<'p> {
    /// A pass that keeps nothing.
    #[must_use]
    pub fn inferring(parameters: &'p [Parameter], workspace: &'p Workspace) -> Self {
        Self { parameters, workspace, memory: Memory::Nothing }
    }

    /// A pass that records what its backward needs.
    #[must_use]
    pub fn recording(parameters: &'p [Parameter], workspace: &'p Workspace) -> Self {
        Self { parameters, workspace, memory: Memory::Tape(RefCell::default()) }
    }

    /// A pass that computes as a recording one does and keeps nothing.
    pub(crate) fn rehearsing(&self) -> Self {
        Self { memory: Memory::Rehearsal(Cell::new(false)), ..*self }
    }

    /// Whether a rehearsal met anything that gives something back.
    pub(crate) fn would_have_recorded(self) -> bool {
        matches!(self.memory, Memory::Rehearsal(met) if met.get())
    }

    /// Ends the pass and gives the tape; empty when nothing was recorded.
    #[must_use]
    pub fn into_tape(self) -> Tape {
        match self.memory {
            Memory::Tape(tape) => tape.into_inner(),
            Memory::Nothing | Memory::Rehearsal(_) => Tape::default(),
        }
    }

    /// The memory of this pass.
    #[must_use]
    pub fn pool(&self) -> &'p Pool {
        self.workspace.pool()
    }

    /// Whether the pass is one of training: it writes a tape, or is written to one on the way back.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        !matches!(self.memory, Memory::Nothing)
    }

    /// Whether parts of the pass are recorded on the way back only.
    pub(crate) fn checkpoints(&self) -> bool {
        matches!(self.memory, Memory::Tape(_)) && self.workspace.checkpoints()
    }

    /// The numbers of a parameter, in whatever form they are.
    pub(crate) fn values(&self, id: ParamId) -> &'p Values {
        &self.parameters[id.0].value
    }

    /// The numbers of a parameter.
    pub(crate) fn value(&self, id: ParamId) -> &'p [f32] {
        &self.parameters[id.0].value
    }

    /// The precision of products that are not with a weight.
    pub(crate) fn precision(&self) -> Precision {
        self.workspace.precision()
    }

    /// The precision of products with a weight. What is recorded is not computed of bytes.
    pub(crate) fn precision_of(&self, weight: ParamId) -> Precision {
        self.workspace.precision_of(weight).trainable_if(self.is_recording())
    }

    /// A weight `[n, k]`, or some of its rows, for `x · Wᵀ`; `values` are its own or scaled ones.
    pub(crate) fn packed<'v>(
        &self,
        (weight, rows): (ParamId, Option<Range<usize>>),
        values: impl FnOnce() -> Cow<'v, [f32]>,
        shape: (usize, usize),
    ) -> Arc<PackedMatrix> {
        let side = rows.map_or(Side::Forward, |rows| Side::Part(rows.start, rows.end));
        let precision = self.precision_of(weight);
        self.workspace.packed((weight, side, precision), values, shape)
    }

    /// The precision that products are also computed in, if one is tried.
    pub(crate) fn trial(&self) -> Option<&'p Trial> {
        self.workspace.trial()
    }

    /// A place on the tape for the gradient of a tensor that comes from elsewhere.
    pub(crate) fn input(&self) -> Option<NodeId> {
        match &self.memory {
            Memory::Tape(tape) => Some(tape.borrow_mut().input()),
            Memory::Nothing | Memory::Rehearsal(_) => None,
        }
    }

    pub(crate) fn take(&self, len: usize) -> Buffer {
        self.pool().take(len)
    }

    /// Whether an operation on these inputs and parameters has anything to give back.
    pub(crate) fn records(&self, inputs: &[&Tensor], parameters: &[ParamId]) -> bool {
        let gives = || {
            inputs.iter().any(|x| x.node().is_some())
                || parameters.iter().any(|p| !self.parameters[p.0].frozen)
        };
        match &self.memory {
            Memory::Nothing => false,
            Memory::Rehearsal(met) => {
                met.set(met.get() || gives());
                false
            }
            Memory::Tape(_) => gives(),
        }
    }

    /// Makes the output of an operation and, if `backward` is some, records it.
    pub(crate) fn output(
        &self,
        (rows, cols): (usize, usize),
        data: Buffer,
        backward: Option<Box<dyn Backward>>,
    ) -> Tensor {
        let y = Tensor::new(rows, cols, data, None);
        self.record(y, backward)
    }

    /// Puts a finished tensor on the tape.
    pub(crate) fn record(&self, y: Tensor, backward: Option<Box<dyn Backward>>) -> Tensor {
        let node = match (&self.memory, backward) {
            (Memory::Tape(tape), Some(backward)) => Some(tape.borrow_mut().push(backward)),
            (Memory::Nothing | Memory::Rehearsal(_), _) | (_, None) => None,
        };
        y.with_node(node)
    }
}
