//! Makes the allocator keep free pages for a while.
//!
//! The allocator is mimalloc 2, its stable line. The crate's default is mimalloc 3, which is 3.3.2 at the time of writing. Version 3.3
//! is reported to crash with several threads (microsoft/mimalloc#1287, mended after 3.3.2), and version 3.1 to hang (#1206). A server of
//! this project hung once, ten seconds after its first request, which is when the first free pages were due to be returned. (Later, a
//! pass that could wait for itself was found in `engine::micro_batches`. It would explain that hang without the allocator.) In a loop with
//! an encoder's allocations on two threads, version 2 took no more processor time than version 3 (66 to 76 us a pass against 75 to 128
//! us), mapped no more pages, and returned free memory after the same ten seconds.

use std::ffi::{c_int, c_long};

// This use links the allocator into every program that calls `retain_pages`.
use mimalloc as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` in mimalloc's table of options.
const PURGE_DELAY: c_int = 15;
/// `mi_option_arena_purge_mult`, the factor by which the delay is longer for large areas. Version 2 would take 10.
const ARENA_PURGE_MULTIPLIER: c_int = 24;
/// Long enough that a batch rarely has to map a page again, and short enough that the memory of one huge text is soon returned.
const MILLISECONDS: c_long = 10_000;

/// From now on, the allocator returns free pages to the system after ten seconds instead of at once, unless `MIMALLOC_PURGE_DELAY`
/// says otherwise. Each batch then reuses the pages of the batch before it. Otherwise the system would map and zero every page again.
///
/// Call it after a base is opened. It first returns the pages that opening the base freed, because no batch needs that many.
pub fn retain_pages() {
    // SAFETY: `mi_collect` returns unused pages, and `mi_option_set_default` sets numbers in the allocator's table of options.
    // Mimalloc allows both functions at any time.
    unsafe {
        mi_collect(true);
        mi_option_set_default(PURGE_DELAY, MILLISECONDS);
        mi_option_set_default(ARENA_PURGE_MULTIPLIER, 1);
    }
}
