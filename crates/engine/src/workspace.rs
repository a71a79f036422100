//! What a tower keeps between passes: memory to use again, and its weights as products read them.
//!
//! In:  parameters. Out: packed matrices, each made at its first use and kept until the parameters may
//! have changed.

use std::{
    borrow::Cow,
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
    /// The same with the rows `from..to` of `W`.
    Part(usize, usize),
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
    trial: Option<Trial>,
    checkpoints: bool,
}

/// Another precision that products are also computed in, and how far they are from those that are used.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) precision: Precision,
    deviations: Mutex<BTreeMap<ParamId, Deviation>>,
}

/// Sums of squares.
#[derive(Debug, Clone, Copy, Default)]
struct Deviation {
    error: f64,
    size: f64,
}

impl Trial {
    /// Adds the results of the same product with a weight.
    pub(crate) fn add(&self, weight: ParamId, used: &[f32], tried: &[f32]) {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = used.iter().zip(tried).map(|(a, b)| square(a - b)).sum();
        let size: f64 = used.iter().map(|x| square(*x)).sum();
        let mut deviations = self.deviations.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = deviations.entry(weight).or_default();
        sums.error += error;
        sums.size += size;
    }
}

impl Workspace {
    /// A workspace whose products are of this precision, but for those of some weights.
    #[must_use]
    pub fn new(precision: Precision, exceptions: BTreeMap<ParamId, Precision>) -> Self {
        Self { precision, exceptions, ..Self::default() }
    }

    /// A workspace whose products are of `f32`, each also computed in `precision` to be compared.
    #[must_use]
    pub fn trying(precision: Precision) -> Self {
        let trial = Trial { precision, deviations: Mutex::default() };
        Self { trial: Some(trial), ..Self::default() }
    }

    /// `‖y′ − y‖ / ‖y‖` of the products with each weight, `y′` being those in the precision that is
    /// tried, of all passes since [`Workspace::trying`].
    #[must_use]
    pub fn deviations(&self) -> BTreeMap<ParamId, f64> {
        let Some(trial) = &self.trial else { return BTreeMap::new() };
        let sums = trial.deviations.lock().unwrap_or_else(PoisonError::into_inner);
        let relative = |sums: &Deviation| (sums.error / sums.size.max(f64::MIN_POSITIVE)).sqrt();
        sums.iter().map(|(weight, sums)| (*weight, relative(sums))).collect()
    }

    pub(crate) fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
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

    /// The precision of the products that exceptions are made for.
    #[must_use]
    pub fn exceptions(&self) -> &BTreeMap<ParamId, Precision> {
        &self.exceptions
    }

    /// The precision of the products with a weight.
    #[must_use]
    pub fn precision_of(&self, weight: ParamId) -> Precision {
        self.exceptions.get(&weight).copied().unwrap_or(self.precision)
    }

    /// Records from now on, of each part that [`crate::Exec::checkpointed`] marks, its input alone. It costs
    /// the part's forward once more on the way back and changes no number.
    pub fn set_checkpoints(&mut self, on: bool) {
        self.checkpoints = on;
    }

    /// Whether marked parts keep their input alone.
    #[must_use]
    pub fn checkpoints(&self) -> bool {
        self.checkpoints
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
    pub(crate) fn packed<'v>(
        &self,
        (weight, side, precision): (ParamId, Side, Precision),
        values: impl FnOnce() -> Cow<'v, [f32]>,
        (n, k): (usize, usize),
    ) -> Arc<PackedMatrix> {
        if let Some(packed) = self.lock().get(&(weight, side)).filter(|p| p.precision == precision)
        {
            return packed.clone();
        }
        let values = values();
        let matrix = MatRef::new(&values, n, k);
        let matrix = match side {
            Side::Forward | Side::Part(..) => matrix.transposed(),
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
