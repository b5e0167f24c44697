//! The singular value decomposition of the change of one linear's weight.

use candle_core::{Device, Result, Tensor};
use faer::Mat;
use faer::linalg::solvers::SvdError;
use polyrank::params::{Delta, Site};

/// The change `D = W_fine - W_base [out, in]` of the weight at one site, as `D = sum_i s_i u_i v_i^T`. Cut after `r` terms, it is the
/// best approximation of rank `r` in the Frobenius norm (Eckart and Young 1936).
pub struct Spectrum {
    /// The site.
    pub site: Site,
    /// `[out, in]`.
    shape: [usize; 2],
    /// The singular values, largest first.
    pub values: Vec<f64>,
    /// `sqrt(s_i) v_i`, row by row: `[terms, in]`.
    right: Vec<f32>,
    /// `sqrt(s_i) u_i`, row by row: `[terms, out]`.
    left: Vec<f32>,
}

impl Spectrum {
    /// Decomposes `fine - base`, which are weights `[out, in]`, row by row. The decomposition is in f64, and only the factors are rounded.
    ///
    /// # Errors
    /// The algorithm does not converge, because an element is not finite.
    pub fn new(site: Site, shape: [usize; 2], base: &[f32], fine: &[f32]) -> std::result::Result<Self, SvdError> {
        let [rows, columns] = shape;
        let change = |i, j| f64::from(fine[i * columns + j]) - f64::from(base[i * columns + j]);
        let svd = Mat::from_fn(rows, columns, change).thin_svd()?;
        let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        // Both factors get the root of the singular value, so that they have equal norms and can be trained at one learning rate.
        let scaled = |vectors: faer::MatRef<'_, f64>| {
            let columns = values.iter().enumerate();
            columns.flat_map(|(i, s)| vectors.col(i).iter().map(|x| (x * s.sqrt()) as f32)).collect::<Vec<f32>>()
        };
        let (left, right) = (scaled(svd.U()), scaled(svd.V()));
        Ok(Self { site, shape, values, right, left })
    }

    /// The number of parameters of one rank: `in + out`.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.shape[0] + self.shape[1]
    }

    /// The squared Frobenius norm of the terms from the first up to `rank`.
    #[must_use]
    pub fn energy(&self, rank: usize) -> f64 {
        self.values[..rank].iter().map(|s| s * s).sum()
    }

    /// The number of singular values that are not rounding errors of f32 weights: those above `max(in, out) * eps * s_0`, as in NumPy's
    /// `matrix_rank`.
    #[must_use]
    pub fn rank(&self) -> usize {
        let largest = self.values.first().copied().unwrap_or(0.0);
        let least = largest * f64::from(f32::EPSILON) * self.shape[0].max(self.shape[1]) as f64;
        self.values.iter().take_while(|&&s| s > least).count()
    }

    /// The first `rank` terms as a delta with the scale 1, on `device`; `None` for rank 0.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn delta(&self, rank: usize, device: &Device) -> Result<Option<Delta>> {
        if rank == 0 {
            return Ok(None);
        }
        let [rows, columns] = self.shape;
        let a = Tensor::from_slice(&self.right[..rank * columns], (rank, columns), device)?;
        let b = Tensor::from_slice(&self.left[..rank * rows], (rank, rows), device)?.t()?;
        Ok(Some(Delta { a, b, scale: 1.0 }))
    }
}
