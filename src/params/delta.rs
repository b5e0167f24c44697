//! The low-rank change of one linear.

use candle_core::Tensor;

/// What an adapter adds to a linear: `y += scale * (x A^T) B^T`.
#[derive(Debug, Clone)]
pub struct Delta {
    /// `A [rank, in]`, contiguous. On the CPU and in training it is f32; in a GPU's memory, an adapter that was read from files has
    /// deltas of [`super::Backend::dtype`].
    pub a: Tensor,
    /// `B [out, rank]`, of the same type. When it is read from a file, it is stored rank by rank, with strides `(1, out)`, as the serving
    /// kernels read it.
    pub b: Tensor,
    /// PEFT's scale, computed from this module's own alpha and rank.
    pub scale: f64,
}

impl Delta {
    /// The rank, at least 1.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `rank * (in + out)`.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.a.elem_count() + self.b.elem_count()
    }
}
