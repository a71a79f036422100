//! Panics of a library that are told as errors.
//!
//! In:  work that may panic. Out: its result, or nothing. What a caught panic says goes nowhere: the
//! caller has an error to tell.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    /// Whether this thread's panics are caught here.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The result of `work`, or nothing if it panics; other threads' panics are told as ever.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                told(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    // What a panic leaves behind is dropped, or was only read.
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.ok()
}
