//! What the allocator does with pages that are free for the moment.

use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicBool, Ordering};

// Named so that the allocator is linked into whatever calls `keep`.
use mimalloc as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` of mimalloc's table, the same in its versions 2 and 3.
const PURGE_DELAY: c_int = 15;
const NEVER: c_long = -1;
const AT_ONCE: c_long = 0;

/// Whether [`keep`] was called.
static KEPT: AtomicBool = AtomicBool::new(false);

/// Keeps the allocator from giving pages back to the system from now on, unless `MIMALLOC_PURGE_DELAY` says else. A batch takes what
/// the one before it let go of; given back in between, every page of it would be mapped and zeroed again.
///
/// To be called once a base is open: what opening it let go of is given back first, no batch needs as much.
pub fn keep() {
    KEPT.store(true, Ordering::Relaxed);
    collect();
    purge_after(NEVER);
}

/// Gives back what is free now, once, where pages are kept: after work that took far more than batches do. What this thread has let
/// go of is given back for sure.
pub fn give_back() {
    if KEPT.load(Ordering::Relaxed) {
        purge_after(AT_ONCE);
        collect();
        purge_after(NEVER);
    }
}

fn collect() {
    // SAFETY: gives back pages that hold nothing; may be called at any time.
    unsafe { mi_collect(true) }
}

fn purge_after(milliseconds: c_long) {
    // SAFETY: sets a number in the allocator's table of options, which it reads whenever it would purge; may be called at any time.
    unsafe { mi_option_set_default(PURGE_DELAY, milliseconds) }
}
