//! The operations that encoders consist of. Each has up to three forms: the reference, made of candle's own operations; the CPU's
//! kernel; the GPU's kernel.
//!
//! [`Ops`] lists the operations. A form that does not override a method runs the reference for it. Only [`of`] chooses the form. An
//! operation returns new tensors and never changes its inputs. Training has two exceptions: [`Ops::assign`] sets variables, and the
//! gradients of low-rank factors are added up in memory of their own.
//!
//! | folder | operation |
//! | --- | --- |
//! | `embed/` | the sum of rows looked up in tables, and copies of rows |
//! | `linear/` | linears, with the low-rank deltas that adapters add to them |
//! | `norm/` | residual sum and LayerNorm |
//! | `gelu/` | GELU and the gated GELU |
//! | `rotary/` | rotary position embeddings |
//! | `attention/` | softmax attention over packed texts |
//! | `disentangled/` | DeBERTa's attention with relative positions |
//! | `dropout/` | dropout with a mask computed from a hash |
//! | `flat/` | many tensors as one vector, and back |
//! | `pool/` | the mean of each text's rows |
//! | `heads/` | linears of many heads, each over rows of its own |
//!
//! `rows.rs` and `rows.cuh` have what the element-wise operations share on a GPU.

mod attention;
mod disentangled;
mod dropout;
mod embed;
mod flat;
mod gelu;
mod heads;
mod linear;
mod norm;
mod pool;
mod rotary;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use candle_core::{DType, Device, Result, Shape, Tensor, Var};

pub use attention::Heads;
pub use disentangled::{Disentangled, TextPositions};
pub use dropout::{Dropout, splitmix};
pub use heads::HeadLinear;
pub use linear::{Added, Linear, Segment, TrainedDelta};
pub use norm::Norm;
pub use rotary::Rotary;

use crate::params::{Backend, Form, Param};

/// The operations in one form. Every method defaults to the reference.
///
/// `T` is the number of tokens of a batch, whose texts lie end to end at `offsets [B + 1]`. Activations are of
/// the backend's type, which is f32 on the CPU. Every method fails if shapes do not fit, or if an operation of candle fails.
pub trait Ops: Debug + Send + Sync {
    /// For each token t, the sum over the tables k of `table_k[ids_k[t]]`: tables `[n_k, hidden]`, each with ids `[T]`, give `[T,
    /// hidden]`.
    ///
    /// # Errors
    /// If an id lies outside its table, or tables differ in width.
    fn embed(&self, lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
        embed::reference(lookups, device)
    }

    /// The rows `rows` of `x [n, width]`, in this order.
    ///
    /// # Errors
    /// If `x` has no such row.
    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        embed::gather_reference(x, rows)
    }

    /// The mean of each text's rows, `[B, hidden]`, for `x [T, hidden]` with texts at `offsets [B + 1]`; 0 for an empty text.
    ///
    /// # Errors
    /// If the offsets decrease or lie outside `x`.
    fn mean(&self, x: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        pool::reference(x, offsets)
    }

    /// The results `[rows, out]` of linears that each read some rows of `x [n, in]`, all f32, one after the other in one tensor `[sum of
    /// rows * out]`, which [`HeadLinear::split`] divides. Not differentiable on a GPU.
    ///
    /// # Errors
    /// If a row lies outside `x`, or the shapes do not fit.
    fn head_linears(&self, x: &Tensor, linears: &[HeadLinear]) -> Result<Tensor> {
        heads::each(self, x, linears)
    }

    /// The outputs `[T, out]` of linears that read the same `x [T, in]`, each with what is added to it. See [`Linear`].
    ///
    /// # Errors
    /// If segments overlap or lie outside the batch.
    fn linears(&self, x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
        linears.iter().map(|linear| linear::reference(x, linear)).collect()
    }

    /// `y [n, out]` plus the delta of each segment of its rows, for `x [n, in]`.
    ///
    /// # Errors
    /// If segments overlap or lie outside the rows.
    fn add_segments(&self, x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
        linear::add_segments_reference(x, y, segments)
    }

    /// LayerNorm of `h`, or of `h + residual`, both `[T, hidden]`.
    ///
    /// # Errors
    /// If the rows are not as wide as the norm's parameters.
    fn norm(&self, h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
        norm::reference(h, residual, norm)
    }

    /// The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, of every element of `x`, which may have any shape.
    ///
    /// # Errors
    /// Candle's own.
    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::reference(x)
    }

    /// `gelu(a) * b`, `[T, w]`, for `x [T, 2 w]` whose rows consist of a and b (GeGLU).
    ///
    /// # Errors
    /// If the width is odd.
    fn gated_gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::gated_reference(x)
    }

    /// `x [T, hidden]` with each head rotated by the angles of its token's position.
    ///
    /// # Errors
    /// If the table was made for other tokens or another head size.
    fn rotate(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        rotary::reference(x, rotary)
    }

    /// `softmax(scale * Q K^T + bias) V` for each text and head. `q`, `k`, `v` and the result are `[T, hidden]`; head h is in the
    /// columns `h * size .. (h + 1) * size`. Differentiable in `q`, `k`, `v` and the bias.
    ///
    /// # Errors
    /// If the offsets do not span `T`, the number of heads does not divide the hidden size, or the bias has too few columns.
    fn attention(&self, qkv: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
        attention::reference(qkv, heads)
    }

    /// `softmax(scores) V` with `scores = scale * (q_i k_j + q_i PK[d(i - j)] + k_j PQ[d(i - j)])` for each text and head (eq. 4 of
    /// DeBERTa). `q`, `k`, `v` are `[T, hidden]`; `PK` and `PQ` are rows of `positions [P, hidden]`. Differentiable in all four.
    ///
    /// # Errors
    /// If shapes or offsets do not fit, or, on a GPU, heads are wider than 128.
    fn disentangled_attention(
        &self,
        qkv: [&Tensor; 3],
        positions: &Tensor,
        how: &Disentangled,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        disentangled::reference(qkv, positions, how, dropout)
    }

    /// `h`, which may have any shape, with elements dropped.
    ///
    /// # Errors
    /// Candle's own.
    fn dropout(&self, h: &Tensor, dropout: Dropout) -> Result<Tensor> {
        dropout::reference(h, dropout)
    }

    /// The elements of all `tensors`, row by row, as one f32 vector without a gradient.
    ///
    /// # Errors
    /// If there are no tensors.
    fn join(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        flat::join_reference(tensors)
    }

    /// New variables of `dtype` with these shapes, which have the elements of `vector`, one after another.
    ///
    /// # Errors
    /// If the vector does not have as many elements as the shapes.
    fn split(&self, vector: &Tensor, shapes: &[Shape], dtype: DType) -> Result<Vec<Var>> {
        flat::split_reference(vector, shapes, dtype)
    }

    /// Sets the variables to the elements of `vector`, one after another.
    ///
    /// # Errors
    /// If the vector does not have as many elements as the variables.
    fn assign(&self, vector: &Tensor, vars: &[&Var]) -> Result<()> {
        flat::assign_reference(vector, vars)
    }
}

/// The operations of a backend. Nothing else chooses their form.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use polyrank::ops;
/// use polyrank::params::Backend;
///
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[-1f32, 0.0, 1.0], &Device::Cpu)?;
/// let kernel = ops::of(&Backend::cpu()).gelu(&x)?.to_vec1::<f32>()?;
/// let reference = ops::of(&Backend::reference(Device::Cpu)).gelu(&x)?.to_vec1::<f32>()?;
/// assert!(kernel.iter().zip(reference).all(|(kernel, reference)| (kernel - reference).abs() < 1e-6));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn of(backend: &Backend) -> &'static dyn Ops {
    match backend.form() {
        Form::Reference => &Reference,
        Form::Cpu => &Cpu,
        Form::Cuda => &Cuda,
    }
}

/// Candle's own operations.
#[derive(Debug)]
struct Reference;

impl Ops for Reference {}

/// Kernels on a GPU. An operation without one runs the reference on the device.
#[derive(Debug)]
struct Cuda;

impl Ops for Cuda {
    fn linears(&self, x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
        linear::cuda(x, linears)
    }

    fn add_segments(&self, x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
        linear::add_segments_cuda(x, y, segments)
    }

    fn embed(&self, lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
        embed::cuda(lookups, device)
    }

    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        embed::gather_cuda(x, rows)
    }

    fn mean(&self, x: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        pool::cuda(x, offsets)
    }

    fn head_linears(&self, x: &Tensor, linears: &[HeadLinear]) -> Result<Tensor> {
        heads::cuda(x, linears)
    }

    fn norm(&self, h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
        norm::cuda(h, residual, norm)
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::cuda(x)
    }

    fn attention(&self, qkv: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
        attention::cuda(qkv, heads)
    }

    fn disentangled_attention(
        &self,
        qkv: [&Tensor; 3],
        positions: &Tensor,
        how: &Disentangled,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        disentangled::cuda(qkv, positions, how, dropout)
    }

    fn join(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        flat::join_cuda(tensors)
    }

    fn split(&self, vector: &Tensor, shapes: &[Shape], dtype: DType) -> Result<Vec<Var>> {
        flat::split_cuda(vector, shapes, dtype)
    }

    fn assign(&self, vector: &Tensor, vars: &[&Var]) -> Result<()> {
        flat::assign_cuda(vector, vars)
    }

    fn gated_gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::gated_cuda(x)
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        rotary::cuda(x, rotary)
    }

    fn dropout(&self, h: &Tensor, dropout: Dropout) -> Result<Tensor> {
        dropout::cuda(h, dropout)
    }
}

/// Kernels over slices of mapped weights and of candle's CPU tensors.
#[derive(Debug)]
struct Cpu;

impl Ops for Cpu {
    fn embed(&self, lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
        embed::cpu(lookups, device)
    }

    fn linears(&self, x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
        linear::cpu(x, linears)
    }

    fn add_segments(&self, x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
        linear::add_segments_cpu(x, y, segments)
    }

    fn norm(&self, h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
        norm::cpu(h, residual, norm)
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::cpu(x)
    }

    fn gated_gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::gated_cpu(x)
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        rotary::cpu(x, rotary)
    }

    fn attention(&self, qkv: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
        attention::cpu(qkv, heads)
    }

    fn disentangled_attention(
        &self,
        qkv: [&Tensor; 3],
        positions: &Tensor,
        how: &Disentangled,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        disentangled::cpu(qkv, positions, how, dropout)
    }

    fn dropout(&self, h: &Tensor, dropout: Dropout) -> Result<Tensor> {
        dropout::cpu(h, dropout)
    }
}

/// The number of tokens of the longest text at `offsets`.
pub(crate) fn longest(offsets: &[usize]) -> usize {
    offsets.windows(2).map(|span| span[1] - span[0]).max().unwrap_or(0)
}
