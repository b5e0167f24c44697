//! What the allocator does with pages that are free for the moment.

use std::ffi::{c_int, c_long};

// Named so that the allocator is linked into whatever calls `keep`.
use mimalloc as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` of mimalloc's table, the same in its versions 2 and 3.
const PURGE_DELAY: c_int = 15;
/// Long enough that batches hardly ever find a page gone, short enough that one huge text does not leave its memory behind.
const MILLISECONDS: c_long = 10_000;

/// Keeps the allocator from giving pages back to the system at once from now on, unless `MIMALLOC_PURGE_DELAY` says else. A batch takes
/// what the one before it let go of; given back in between, every page of it would be mapped and zeroed again.
///
/// To be called once a base is open: what opening it let go of is given back first, no batch needs as much.
pub fn retain_pages() {
    // SAFETY: the first gives back pages that hold nothing, the second sets a number in the allocator's table of options; both
    // may be called at any time.
    unsafe {
        mi_collect(true);
        mi_option_set_default(PURGE_DELAY, MILLISECONDS);
    }
}
