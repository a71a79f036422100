//! What a tower keeps between passes: memory to use again, and its weights as products read them.
//!
//! In:  parameters. Out: packed matrices, each made at its first use and kept until the parameters may
//! have changed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    exec::ParamId,
    gemm::{MatRef, PackedMatrix, Precision},
    tensor::Pool,
};

/// Which way a weight `W`, `[n, k]`, is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// `x · Wᵀ`
    Forward,
    /// `g · W`
    Backward,
}

/// The packed forms of weights.
type PackedWeights = BTreeMap<(ParamId, Side), Arc<PackedMatrix>>;

/// Memory and packed weights of one tower. It may be used from several threads at once.
#[derive(Debug, Default)]
pub struct Workspace {
    pool: Pool,
    precision: Precision,
    exceptions: BTreeMap<ParamId, Precision>,
    packed: Mutex<PackedWeights>,
}

impl Workspace {
    /// A workspace whose products are of this precision, but for those of some weights.
    #[must_use]
    pub fn new(precision: Precision, exceptions: BTreeMap<ParamId, Precision>) -> Self {
        Self { precision, exceptions, ..Self::default() }
    }

    /// The memory.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The precision of products that no exception is made for.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The precision of the products with a weight.
    #[must_use]
    pub fn precision_of(&self, weight: ParamId) -> Precision {
        self.exceptions.get(&weight).copied().unwrap_or(self.precision)
    }

    /// Forgets the packed weights. To be called before parameters change.
    pub fn forget_weights(&mut self) {
        self.lock().clear();
    }

    /// Bytes that packed weights take.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        self.lock().values().map(|packed| packed.bytes()).sum()
    }

    /// The weight as products with it read it. Two threads that are first at once both pack it; waiting
    /// for each other could wait for ever, as packing runs on the same threads.
    pub(crate) fn packed(
        &self,
        (weight, side, precision): (ParamId, Side, Precision),
        values: &[f32],
        (n, k): (usize, usize),
    ) -> Arc<PackedMatrix> {
        if let Some(packed) = self.lock().get(&(weight, side)).filter(|p| p.precision == precision)
        {
            return packed.clone();
        }
        let matrix = MatRef::new(values, n, k);
        let matrix = match side {
            Side::Forward => matrix.transposed(),
            Side::Backward => matrix,
        };
        let packed = Arc::new(PackedMatrix::pack(matrix, precision, &self.pool));
        self.lock().insert((weight, side), packed.clone());
        packed
    }

    fn lock(&self) -> MutexGuard<'_, PackedWeights> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
