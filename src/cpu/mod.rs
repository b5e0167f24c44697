//! What the operations share on the CPU: SIMD, matrix products, packed weights, and access to candle's tensors as slices.
//!
//! | file | idea |
//! | --- | --- |
//! | `host.rs` | candle's CPU tensors as slices, and slices as tensors |
//! | `simd.rs`, `math.rs` | the machine's widest vectors, chosen at run time; `exp` and `erf` over them |
//! | `gemm.rs` | general matrix products (GEMM) |
//! | `gemv.rs` | products with few rows, which read their operands in place |
//! | `expand.rs` | `y += h B` for a thin `h`: the second product of a low-rank delta |
//! | `packed/` | products with weights that were packed once, in f32, bf16 or int8 |
//! | `transpose.rs`, `prefetch.rs` | transposing a few columns; fetching memory before it is read |

pub(crate) mod expand;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod host;
pub(crate) mod math;
pub(crate) mod packed;
pub(crate) mod prefetch;
pub(crate) mod simd;
pub(crate) mod transpose;

/// The number of elements in one parallel task of an element-wise kernel: enough to outweigh the cost of starting it.
pub(crate) const CHUNK: usize = 8192;

/// The number of rows of `width` elements in one parallel task.
pub(crate) fn rows_per_task(width: usize) -> usize {
    CHUNK.div_ceil(width.max(1))
}
