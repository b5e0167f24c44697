//! What operations share on a GPU: addresses of tensors, fresh memory, launches, gradients.
//!
//! | file | idea |
//! | --- | --- |
//! | `kernel.cuh`, `operands.cuh` | what the kernels' sources share; operands of products of tiles |
//! | `memory.rs` | tensors as kernels read and write them, and small tables that are uploaded once for all layers of a batch |
//! | `pass.rs` | memory for the small tensors of a pass, cut from large pieces |
//! | `kernel.rs` | a kernel's parameters, the sizes of its launch, and its name |
//! | `launch.rs` | launches a kernel: on the GPU, or on the CPU in tests |
//! | `download.rs` | copies results to the host while later work is queued already |
//! | `span.rs` | neighbouring memory of several tensors, copied at once |
//! | `transfer.rs` | copies that do not wait for the work of the GPU (feature `cuda`) |
//! | `modules.rs` | the compiled kernels, loaded once for each device (feature `cuda`) |
//! | `gemm.rs` | products of matrices |
//! | `recorded.rs` | the gradient of what kernels have computed |
//! | `upload.rs` | uploads what is not part of a batch, such as an adapter |
//! | `staging.rs` | copies through pinned memory on a stream of their own (feature `cuda`) |
//!
//! Everything above this module compiles and runs without a GPU. In tests, `on_host` takes the place of the GPU: tensors lie in the
//! CPU's memory, and each launch runs the same kernel compiled for the CPU.

mod download;
mod gemm;
mod kernel;
mod launch;
mod memory;
#[cfg(feature = "cuda")]
mod modules;
mod pass;
mod recorded;
#[cfg(any(feature = "cuda", test))]
mod span;
#[cfg(feature = "cuda")]
mod staging;
#[cfg(feature = "cuda")]
mod transfer;
mod upload;

pub(crate) use download::Download;
pub(crate) use gemm::{Factor, gemm};
pub(crate) use kernel::{Grid, Params};
#[cfg(test)]
pub(crate) use launch::LAUNCHES;
pub use launch::{HostLaunch, run_on_host};
pub(crate) use launch::{Place, launch};
pub(crate) use memory::{DeviceMemory, Matrix, Output, Table, address, check, memory_of, most_shared, prepare};
pub(crate) use pass::Pass;
pub(crate) use recorded::recorded;
pub use upload::UploadError;
pub(crate) use upload::upload;

/// The device that the variable `POLYRANK_TEST_DEVICE` names, such as `cuda`, if it is set. A device that cannot be opened fails the test.
#[cfg(test)]
pub(crate) fn test_device() -> Option<candle_core::Device> {
    #![allow(clippy::unwrap_used)]
    let name = std::env::var("POLYRANK_TEST_DEVICE").ok()?;
    Some(name.parse::<crate::params::DeviceName>().unwrap().open().unwrap())
}
