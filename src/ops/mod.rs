//! The operations that encoders are made of, each in up to three forms: the reference by candle's own operations, the CPU's
//! kernel, and the GPU's.
//!
//! [`Ops`] lists them. A method of it that a form does not override runs as the reference; [`of`] chooses the form, and nothing
//! else does. An operation owns what it writes: it returns new tensors and never changes one that it was given.
//!
//! | folder | operation |
//! | --- | --- |
//! | `embed/` | sums of rows looked up in tables |
//! | `linear/` | linears, with the low-rank deltas that adapters add to them |
//! | `norm/` | residual and LayerNorm |
//! | `gelu/` | GELU and the gated GELU |
//! | `rotary/` | rotary positions |
//! | `attention/` | softmax attention over packed texts |
//! | `disentangled/` | DeBERTa's attention, with relative positions |
//! | `dropout/` | dropout whose mask is a hash |

mod attention;
mod disentangled;
mod dropout;
mod embed;
mod gelu;
mod linear;
mod norm;
mod rotary;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use candle_core::{Device, Result, Tensor};

pub use attention::Heads;
pub use disentangled::{Disentangled, TextPositions};
pub use dropout::{Dropout, splitmix};
pub use linear::{Added, Linear, Segment};
pub use norm::Norm;
pub use rotary::Rotary;

use crate::params::{Backend, Form, Param};

/// The operations in one form. Every method defaults to the reference.
///
/// `T` is the number of tokens of a batch, whose texts lie end to end at `offsets [B + 1]`. All tensors are f32. Every method fails
/// on shapes that do not fit, and with candle's own errors.
pub trait Ops: Debug + Send + Sync {
    /// `sum over tables k of table_k[ids_k[t]]` for each token t: tables `[n_k, hidden]` with ids `[T]` each give `[T, hidden]`.
    ///
    /// # Errors
    /// An id outside its table, and tables of different width.
    fn embed(&self, lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
        embed::reference(lookups, device)
    }

    /// Linears that read the same `x [T, in]`, each with what is added to it: `[T, out]` of each. See [`Linear`].
    ///
    /// # Errors
    /// Segments that overlap or lie outside the batch.
    fn linears(&self, x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
        linears.iter().map(|linear| linear::reference(x, linear)).collect()
    }

    /// `y [n, out]` with the delta of each segment of its rows, for `x [n, in]`.
    ///
    /// # Errors
    /// Segments that overlap or lie outside the rows.
    fn add_segments(&self, x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
        linear::add_segments_reference(x, y, segments)
    }

    /// LayerNorm of `h`, or of `h + residual`, both `[T, hidden]`.
    ///
    /// # Errors
    /// Rows of another width than the norm's.
    fn norm(&self, h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
        norm::reference(h, residual, norm)
    }

    /// The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, of every element of `x`, of any shape.
    ///
    /// # Errors
    /// Candle's own.
    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::reference(x)
    }

    /// `gelu(a) * b` of `x [T, 2 w]`, whose rows are a and b: `[T, w]` (GeGLU).
    ///
    /// # Errors
    /// A width that is odd.
    fn gated_gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu::gated_reference(x)
    }

    /// `x [T, hidden]` with each head rotated by its token's position.
    ///
    /// # Errors
    /// A table of other tokens or of another head size.
    fn rotate(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        rotary::reference(x, rotary)
    }

    /// `softmax(scale * Q K^T + bias) V` for each text and head: `q`, `k`, `v` and the result `[T, hidden]`, head h in the columns
    /// `h * size .. (h + 1) * size`. Differentiable in `q`, `k`, `v` and the bias.
    ///
    /// # Errors
    /// Offsets that do not span `T`, a hidden size that heads do not divide, and a bias that does not reach.
    fn attention(&self, qkv: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
        attention::reference(qkv, heads)
    }

    /// `softmax(scores) V` with `scores = scale * (q_i k_j + q_i PK[d(i - j)] + k_j PQ[d(i - j)])` for each text and head (eq. 4 of
    /// DeBERTa): `q`, `k`, `v` `[T, hidden]`; `PK` and `PQ` are rows of `positions [P, hidden]`. Differentiable in all four.
    ///
    /// # Errors
    /// Shapes and offsets that do not fit.
    fn disentangled_attention(
        &self,
        qkv: [&Tensor; 3],
        positions: &Tensor,
        how: &Disentangled,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        disentangled::reference(qkv, positions, how, dropout)
    }

    /// `h`, of any shape, with elements dropped.
    ///
    /// # Errors
    /// Candle's own.
    fn dropout(&self, h: &Tensor, dropout: Dropout) -> Result<Tensor> {
        dropout::reference(h, dropout)
    }
}

/// The operations of a backend: the one place where their form is chosen.
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

/// A GPU. It has no kernels of its own yet: every operation runs as the reference, on the device.
#[derive(Debug)]
struct Cuda;

impl Ops for Cuda {}

/// Kernels over slices of the mapping and of candle's CPU tensors.
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
