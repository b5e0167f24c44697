//! The GPU's kernels, compiled for the CPU: `on_host.h` says how they run.

use std::ffi::{CStr, c_char, c_int, c_void};

unsafe extern "C" {
    fn polyrank_launch(
        name: *const c_char,
        grid: *const [u32; 3],
        threads: u32,
        bytes: usize,
        params: *const c_void,
    ) -> c_int;
}

/// Runs the kernel `name` with `threads` threads and `bytes` of shared memory in each block. Returns whether there is such a kernel.
///
/// # Safety
/// `params` must point to the kernel's parameters, and all addresses in them must be valid for what the kernel reads and writes.
pub unsafe fn launch(name: &CStr, grid: [u32; 3], threads: u32, bytes: usize, params: *const c_void) -> bool {
    // SAFETY: the name ends with a zero and the grid is an array of three; the caller promises the rest.
    unsafe { polyrank_launch(name.as_ptr(), &raw const grid, threads, bytes, params) != 0 }
}
