//! How long work tells where it is, and how it is asked to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Receives the progress of long work. Libraries never print; the binary implements this.
pub trait Progress: Send + Sync {
    /// `done` of `total` (if known) units of `stage` are finished. Rate and time left are derived by
    /// the receiver. `note` is a short live figure (`loss 2.31`), two lines of them, or empty.
    fn update(&self, stage: &str, done: u64, total: Option<u64>, note: &str);

    /// A stage has ended; `summary` is a short sentence.
    fn finish(&self, stage: &str, summary: &str);

    /// Something the user should know that does not end the work.
    fn warn(&self, message: &str);
}

/// Progress nobody listens to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _stage: &str, _done: u64, _total: Option<u64>, _note: &str) {}
    fn finish(&self, _stage: &str, _summary: &str) {}
    fn warn(&self, _message: &str) {}
}

/// A request to stop, shared between the signal handler and the work.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the work to stop at its next safe point.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work was asked to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Passes, or says that the work was asked to stop.
    ///
    /// # Errors
    /// [`Interrupted`] when a stop was requested.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.requested() { Err(Interrupted) } else { Ok(()) }
    }
}

/// The work was stopped by request; what it had finished is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
