//! Bare products of the `gemm` crate: what linears are held to.

use gemm::Parallelism;

/// The sizes of `y = x w^T`: `x [m, k]`, `w [n, k]`, `y [m, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

impl Size {
    /// Additions and multiplications.
    pub(crate) fn flops(self) -> u64 {
        2 * (self.m * self.n * self.k) as u64
    }
}

/// How a weight lies in memory; which is faster depends on the sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight {
    /// `[n, k]`, as checkpoints have it.
    AsStored,
    /// `[k, n]`.
    Transposed,
}

/// `y = x w^T` on `threads` threads of rayon.
///
/// # Panics
/// If a slice is not of the size that `size` says.
pub(crate) fn product(y: &mut [f32], x: &[f32], (w, weight): (&[f32], Weight), size: Size, threads: usize) {
    let Size { m, n, k } = size;
    assert!(y.len() == m * n && x.len() == m * k && w.len() == n * k, "product: a slice of another size");
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let (column, row) = match weight {
        Weight::AsStored => (k as isize, 1),
        Weight::Transposed => (1, n as isize),
    };
    // SAFETY: the assertion promises that each slice holds every element that sizes and strides reach; `y` is borrowed mutably,
    // so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            column,
            row,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
