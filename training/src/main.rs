//! `polyrank-train`: trains, prunes and evaluates adapters.

mod cli;

use std::process::ExitCode;

/// Tensor operations return fresh buffers. This allocator keeps the pages of freed buffers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
