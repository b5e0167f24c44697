//! `polyrank`: serves many text-classification adapters from one frozen encoder.

mod cli;

use std::process::ExitCode;

/// Tensor operations return fresh buffers. This allocator keeps the pages of freed buffers, so that after a few batches no page is
/// mapped anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
