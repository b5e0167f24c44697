//! `polyrank`: serves many text-classification adapters from one frozen encoder.

mod cli;

use std::process::ExitCode;

/// Tensor operations return fresh buffers; this allocator keeps their pages, so that the steady state neither maps nor faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
