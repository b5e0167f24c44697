//! `polyrank-train`: trains, prunes and evaluates adapters.

mod cli;

use std::process::ExitCode;

/// Tensor operations return fresh buffers. This allocator keeps the pages of freed buffers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The variable from which candle takes the number of threads of its own element-wise operations.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

fn main() -> ExitCode {
    // Micro-batches keep all cores busy. Candle's own threads would spin beside them: on two cores, they took a third of the time.
    if std::env::var_os(CANDLE_THREADS).is_none() {
        // SAFETY: this is the program's first statement, so that no other thread reads the environment.
        unsafe { std::env::set_var(CANDLE_THREADS, "1") };
    }
    cli::main()
}
