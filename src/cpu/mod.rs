//! What the operations share on the CPU: vectors, products, packed weights, and candle's tensors as slices.
//!
//! | file | idea |
//! | --- | --- |
//! | `host.rs` | candle's CPU tensors as slices, and slices as tensors |
//! | `simd.rs`, `math.rs` | the widest vectors of the machine, chosen at run time; `exp` and `erf` over them |
//! | `gemm.rs` | general matrix products |
//! | `gemv.rs` | products of few rows, straight from where they lie |
//! | `expand.rs` | products of thin matrices, added to what is there: the second half of a low-rank delta |
//! | `packed/` | products with weights that were packed once, in f32, bf16 and int8 |
//! | `transpose.rs`, `prefetch.rs` | a few columns transposed; memory fetched ahead of its use |

pub(crate) mod expand;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod host;
pub(crate) mod math;
pub(crate) mod packed;
pub(crate) mod prefetch;
pub(crate) mod simd;
pub(crate) mod transpose;

/// Elements that one parallel task of an element-wise kernel takes: enough to outweigh its dispatch.
pub(crate) const CHUNK: usize = 8192;

/// Rows of `width` elements that one parallel task takes.
pub(crate) fn rows_per_task(width: usize) -> usize {
    CHUNK.div_ceil(width.max(1))
}
