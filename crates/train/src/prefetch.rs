//! Prepares the batches of coming steps on other threads while the current one trains.
//!
//! In:  a range of steps; a function that draws a step's rows, called step after step by one thread at a
//!      time, so that files are read in order; a function from what was drawn to the batch, called by
//!      all threads at once; numbers of threads and of batches ahead.
//! Out: the batches in order, at most `ahead` of them waiting.
//! Not here: what a batch is. The order never depends on the threads' timing.

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{config::PrefetchConfig, error::PrefetchError};

/// Runs `consume` with the batches of `steps`: drawn in order, prepared by several threads.
///
/// When `consume` returns, no further batch is begun; those in work are finished and dropped.
///
/// # Panics
/// When there are no threads, or no batches ahead.
pub fn prefetch<D, B: Send, E, R>(
    steps: Range<u64>,
    config: &PrefetchConfig,
    draw: impl Fn(u64) -> Result<D, E> + Sync,
    prepare: impl Fn(u64, D) -> Result<B, E> + Sync,
    consume: impl FnOnce(&mut Batches<'_, B, E>) -> R,
) -> R
where
    E: std::error::Error + Send + 'static,
{
    let PrefetchConfig { threads, ahead } = *config;
    assert!(threads > 0 && ahead > 0, "somebody must prepare something");
    let queue = Queue {
        turn: Mutex::new(()),
        state: Mutex::new(State { begun: steps.start, taken: steps.start, ready: BTreeMap::new() }),
        end: steps.end,
        ahead: ahead as u64,
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| queue.work(&draw, &prepare));
        }
        // Closes the queue however `consume` ends, a panic included.
        let mut batches = Batches { queue: &queue };
        consume(&mut batches)
    })
}

/// The prepared batches, in order of their steps.
pub struct Batches<'a, B, E: std::error::Error + 'static> {
    queue: &'a Queue<B, E>,
}

impl<B, E: std::error::Error + 'static> Iterator for Batches<'_, B, E> {
    type Item = Result<B, PrefetchError<E>>;

    /// Waits for the next batch; after an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.queue.lock();
        loop {
            if state.taken >= self.queue.end {
                return None;
            }
            let step = state.taken;
            if let Some(batch) = state.ready.remove(&step) {
                state.taken = if batch.is_ok() { step + 1 } else { self.queue.end };
                self.queue.changed.notify_all();
                return Some(batch);
            }
            state = self.queue.wait(state);
        }
    }
}

impl<B, E: std::error::Error + 'static> Drop for Batches<'_, B, E> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.taken = self.queue.end;
        state.ready.clear();
        self.queue.changed.notify_all();
    }
}

struct Queue<B, E: std::error::Error + 'static> {
    /// Held by the thread that draws.
    turn: Mutex<()>,
    state: Mutex<State<B, E>>,
    end: u64,
    ahead: u64,
    changed: Condvar,
}

struct State<B, E: std::error::Error + 'static> {
    /// The next step nobody works on.
    begun: u64,
    /// The next step the consumer takes; the end when it wants no more.
    taken: u64,
    ready: BTreeMap<u64, Result<B, PrefetchError<E>>>,
}

impl<B, E: std::error::Error + 'static> Queue<B, E> {
    fn work<D>(
        &self,
        draw: &impl Fn(u64) -> Result<D, E>,
        prepare: &impl Fn(u64, D) -> Result<B, E>,
    ) {
        while let Some((step, drawn)) = self.draw(draw) {
            let batch = drawn.and_then(|drawn| told(step, || prepare(step, drawn)));
            let mut state = self.lock();
            if state.taken < self.end {
                state.ready.insert(step, batch);
            }
            self.changed.notify_all();
        }
    }

    /// Draws the next step to work on, while the others wait for their turn.
    fn draw<D>(&self, draw: &impl Fn(u64) -> Result<D, E>) -> Option<(u64, Told<D, E>)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let step = self.begin()?;
        Some((step, told(step, || draw(step))))
    }

    /// The next step to work on, once the consumer is near enough.
    fn begin(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.begun >= self.end || state.taken >= self.end {
                return None;
            }
            if state.begun < state.taken + self.ahead {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self.wait(state);
        }
    }

    // No code that can panic runs under the lock, so its data are whole even if it is poisoned.
    fn lock(&self) -> MutexGuard<'_, State<B, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<B, E>>) -> MutexGuard<'a, State<B, E>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

type Told<X, E> = Result<X, PrefetchError<E>>;

/// Runs a step's work; tells its error, or its panic, with the step.
fn told<X, E: std::error::Error + 'static>(
    step: u64,
    work: impl FnOnce() -> Result<X, E>,
) -> Told<X, E> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|source| PrefetchError::Failed { step, source }),
        Err(panic) => Err(PrefetchError::Panicked { step, message: message(panic.as_ref()) }),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;

    fn by(threads: usize, ahead: usize) -> PrefetchConfig {
        PrefetchConfig { threads, ahead }
    }

    /// Draws nothing.
    fn nothing<E>(_step: u64) -> Result<(), E> {
        Ok(())
    }

    #[test]
    fn steps_are_drawn_in_order_by_one_thread_at_a_time() {
        let (last, at_once) = (AtomicU64::new(0), AtomicU64::new(0));
        let draw = |step: u64| {
            assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "two threads draw");
            assert_eq!(last.swap(step, Ordering::SeqCst) + 1, step, "in order");
            thread::yield_now();
            at_once.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Infallible>(step * 10)
        };
        let prepare = |step: u64, drawn: u64| Ok((step, drawn));
        let batches: Vec<(u64, u64)> = prefetch(1..200, &by(4, 6), draw, prepare, |batches| {
            batches.map(Result::unwrap).collect()
        });
        assert_eq!(batches, (1..200).map(|step| (step, step * 10)).collect::<Vec<_>>());
    }

    #[test]
    fn batches_come_in_order_and_never_too_far_ahead() {
        let (begun, taken) = (AtomicU64::new(0), AtomicU64::new(5));
        let prepare = |step: u64, ()| {
            begun.fetch_max(step, Ordering::SeqCst);
            assert!(step < taken.load(Ordering::SeqCst) + 3, "at most `ahead` batches wait");
            // Uneven work, so that threads finish out of order.
            let rounds = (step % 3) * 20_000;
            Ok::<_, Infallible>((step, (0..rounds).fold(0, |a: u64, b| a.wrapping_mul(31) ^ b)))
        };
        let steps: Vec<u64> = prefetch(5..40, &by(4, 3), nothing, prepare, |batches| {
            let mut steps = Vec::new();
            while let Some(batch) = {
                taken.fetch_add(1, Ordering::SeqCst);
                batches.next()
            } {
                steps.push(batch.unwrap().0);
            }
            steps
        });
        assert_eq!(steps, (5..40).collect::<Vec<_>>());
    }

    #[derive(Debug, thiserror::Error)]
    #[error("disk on fire")]
    struct OnFire;

    #[test]
    fn an_error_reaches_the_consumer_at_its_step_and_ends_it() {
        let prepare = |step, ()| if step == 3 { Err(OnFire) } else { Ok(step) };
        let seen: Vec<String> = prefetch(0..100, &by(2, 4), nothing, prepare, |batches| {
            batches.map(|b| b.map_or_else(|e| e.to_string(), |b| b.to_string())).collect()
        });
        assert_eq!(seen, ["0", "1", "2", "cannot prepare the batch of step 3"]);
    }

    #[test]
    fn a_panic_reaches_the_consumer_as_an_error() {
        let prepare = |step: u64, ()| -> Result<u64, Infallible> {
            assert!(step < 2, "step {step} is cursed");
            Ok(step)
        };
        let last = prefetch(0..9, &by(3, 2), nothing, prepare, |batches| batches.last().unwrap());
        assert_eq!(
            last.unwrap_err().to_string(),
            "preparing the batch of step 2 panicked: step 2 is cursed"
        );
    }

    #[test]
    fn stops_when_the_consumer_has_enough() {
        let begun = AtomicU64::new(0);
        let prepare = |step, ()| {
            begun.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(step)
        };
        let first = prefetch(0..u64::MAX, &by(2, 4), nothing, prepare, |batches| batches.next());
        assert_eq!(first.unwrap().unwrap(), 0);
        assert!(begun.load(Ordering::SeqCst) <= 5, "one taken, four ahead");
    }
}
