//! A kernel as its callers name it: parameters, sizes of a launch, and the name under which it is exported.

use candle_core::{DType, Result, bail};

/// The parameters of a kernel, passed by value. The type has the layout of the struct in the kernel's source: `#[repr(C)]`, addresses
/// as `u64`.
///
/// # Safety
/// The implementor promises that layout, and that the struct has no padding that matters to the kernel.
pub(crate) unsafe trait Params: Copy {}

/// The size of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// The number of blocks in each direction. No block at all is no launch.
    pub(crate) blocks: [usize; 3],
    /// The number of threads in a block, at most what the kernel was exported with.
    pub(crate) threads: usize,
    /// Bytes of shared memory in a block.
    pub(crate) shared: usize,
}

/// The name under which the kernel `name` is exported for activations of type `dtype`.
pub(super) fn exported(name: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 => Ok(format!("{name}_f32")),
        DType::BF16 => Ok(format!("{name}_bf16")),
        DType::F16 => Ok(format!("{name}_f16")),
        other => bail!("{name}: no kernel for {other:?}"),
    }
}
