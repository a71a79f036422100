//! Where operations run: the parameters they read, the memory they use, the tape they may write.

use std::cell::RefCell;

use conjoin_core::Parameter;

use crate::{
    tape::{Backward, Tape},
    tensor::{Buffer, Pool, Tensor},
};

/// The index of a parameter in its model's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParamId(pub usize);

/// One forward pass.
///
/// Operations are methods, each in its file under `ops`. Operations run on all threads inside and in
/// order outside; an `Exec` belongs to one thread.
#[derive(Debug)]
pub struct Exec<'p> {
    parameters: &'p [Parameter],
    pool: Pool,
    tape: Option<RefCell<Tape>>,
}

impl<'p> Exec<'p> {
    /// A pass that keeps nothing.
    #[must_use]
    pub fn inferring(parameters: &'p [Parameter], pool: &Pool) -> Self {
        Self { parameters, pool: pool.clone(), tape: None }
    }

    /// A pass that records what its backward needs.
    #[must_use]
    pub fn recording(parameters: &'p [Parameter], pool: &Pool) -> Self {
        Self { parameters, pool: pool.clone(), tape: Some(RefCell::default()) }
    }

    /// Ends the pass and gives the tape; empty when nothing was recorded.
    #[must_use]
    pub fn into_tape(self) -> Tape {
        self.tape.map(RefCell::into_inner).unwrap_or_default()
    }

    /// The memory of this pass.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The numbers of a parameter.
    pub(crate) fn value(&self, id: ParamId) -> &'p [f32] {
        &self.parameters[id.0].value
    }

    pub(crate) fn take(&self, len: usize) -> Buffer {
        self.pool.take(len)
    }

    /// Whether an operation on these inputs and parameters has anything to give back.
    pub(crate) fn records(&self, inputs: &[&Tensor], parameters: &[ParamId]) -> bool {
        self.tape.is_some()
            && (inputs.iter().any(|x| x.node().is_some())
                || parameters.iter().any(|p| !self.parameters[p.0].frozen))
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
        let node = match (&self.tape, backward) {
            (Some(tape), Some(backward)) => Some(tape.borrow_mut().push(backward)),
            (None, _) | (_, None) => None,
        };
        y.with_node(node)
    }
}
