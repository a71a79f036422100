//! How much memory the process takes from its heap at most, while it is watched.
#![expect(unsafe_code, reason = "an allocator is unsafe by nature; it hands everything on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

#[global_allocator]
static COUNTED: Counted = Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// More than this at once is refused, so that a mistake fails a test and not the machine.
const MOST: usize = 4 << 30;

struct Counted;

// SAFETY: everything is the system's allocator's; beside it, two numbers are kept.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST {
            return std::ptr::null_mut();
        }
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Counts from its start.
pub(crate) struct Watch {
    before: usize,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        Self { before }
    }

    /// The most bytes that were in use at once, beyond those at the start.
    pub(crate) fn peak(&self) -> usize {
        PEAK.load(Relaxed).saturating_sub(self.before)
    }
}
