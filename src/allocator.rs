//! Makes the allocator keep free pages for a while.

use std::ffi::{c_int, c_long};

// This use links the allocator into every program that calls `retain_pages`.
use mimalloc as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` in mimalloc's table of options. It has the same number in versions 2 and 3.
const PURGE_DELAY: c_int = 15;
/// Long enough that a batch rarely has to map a page again, and short enough that the memory of one huge text is soon returned.
const MILLISECONDS: c_long = 10_000;

/// From now on, the allocator returns free pages to the system after ten seconds instead of at once, unless `MIMALLOC_PURGE_DELAY`
/// says otherwise. Each batch then reuses the pages of the batch before it. Otherwise the system would map and zero every page again.
///
/// Call it after a base is opened. It first returns the pages that opening the base freed, because no batch needs that many.
pub fn retain_pages() {
    // SAFETY: `mi_collect` returns unused pages, and `mi_option_set_default` sets a number in the allocator's table of options.
    // Mimalloc allows both calls at any time.
    unsafe {
        mi_collect(true);
        mi_option_set_default(PURGE_DELAY, MILLISECONDS);
    }
}
