//! Matrix products of strided f32 slices, by the `gemm` crate (AVX-512, AVX2 or portable, chosen at run time).

use ::gemm::Parallelism;

/// A matrix over a slice: element (i, j) lies at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl<'a> View<'a> {
    /// A matrix with rows of `width` elements, stored one after the other.
    pub(crate) fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, col: 1 }
    }

    /// The transpose: the same elements with rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }

    fn holds(self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// The sizes of a product, `[m, k] x [k, n] -> [m, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// The destination of a product: contiguous rows, `row` elements apart.
pub(crate) struct Target<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) row: usize,
    /// Whether the product is added to the elements already there, or replaces them.
    pub(crate) add: bool,
}

/// Whether a product may use all of rayon's threads or stays on the calling thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    All,
    One,
}

/// `target (+)= scale * lhs rhs`.
///
/// # Panics
/// If a slice is shorter than `size` and its strides require: a caller's bug.
pub(crate) fn gemm(target: Target, lhs: View, rhs: View, scale: f32, size: Size, threads: Threads) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    assert!(target.row >= n && (m - 1) * target.row + n <= target.data.len(), "gemm: target too short");
    assert!(lhs.holds(m, k) && rhs.holds(k, n), "gemm: operand too short");
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(rayon::current_num_threads()),
        _ => Parallelism::None,
    };
    // SAFETY: the assertions above promise that every element that m, n, k and the strides reach lies inside its slice; the
    // target is borrowed mutably, so it overlaps neither operand.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            target.data.as_mut_ptr(),
            1,
            target.row as isize,
            target.add,
            lhs.data.as_ptr(),
            lhs.col as isize,
            lhs.row as isize,
            rhs.data.as_ptr(),
            rhs.col as isize,
            rhs.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
