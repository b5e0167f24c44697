//! Products of matrices: cuBLAS on a GPU, a plain product on the CPU in tests.

use candle_core::{DType, Result, bail};
use half::{bf16, f16};

use super::{Matrix, Place};

/// A matrix `[rows, columns]` in memory, or its transpose. The elements of a stored row are neighbours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    /// The address of the first element.
    pub(crate) address: u64,
    /// The number of rows, after transposition.
    pub(crate) rows: usize,
    /// The number of columns, after transposition.
    pub(crate) columns: usize,
    /// The number of elements from the start of a stored row to the start of the next.
    pub(crate) stride: usize,
    /// f32, bf16 or f16.
    pub(crate) dtype: DType,
    transposed: bool,
}

impl Factor {
    /// The matrix `[rows, columns]` at an address.
    pub(crate) fn at(address: u64, [rows, columns]: [usize; 2], stride: usize, dtype: DType) -> Self {
        Self { address, rows, columns, stride, dtype, transposed: false }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }
}

impl From<Matrix<'_>> for Factor {
    fn from(matrix: Matrix) -> Self {
        Self::at(matrix.address, [matrix.rows, matrix.width], matrix.stride, matrix.dtype)
    }
}

/// `y = alpha * a b + beta * y` for `a [m, k]`, `b [k, n]` of one type and `y [m, n]`, of the same type or f32. Sums are f32. If
/// `beta` is 0, y is not read.
///
/// # Errors
/// If shapes or types do not fit, or cuBLAS refuses the product.
///
/// # Safety
/// The addresses must be valid for these shapes and strides until all work that was queued on the device has ended, and y must
/// overlap neither factor.
pub(crate) unsafe fn gemm(place: &Place, alpha: f32, a: Factor, b: Factor, beta: f32, y: Factor) -> Result<()> {
    let fits = a.columns == b.rows && y.rows == a.rows && y.columns == b.columns && !y.transposed;
    if !fits || a.dtype != b.dtype || (y.dtype != a.dtype && y.dtype != DType::F32) {
        bail!("gemm: cannot write {a:?} times {b:?} to {y:?}");
    }
    if y.rows == 0 || y.columns == 0 {
        return Ok(());
    }
    match place {
        Place::Host(_) => {
            // SAFETY: the caller promises valid addresses.
            unsafe { host(alpha, a, b, beta, y) }
        }
        #[cfg(feature = "cuda")]
        // SAFETY: the caller promises valid addresses.
        Place::Gpu(device) => unsafe { cublas::gemm(device, alpha, a, b, beta, y) },
    }
}

/// The product on the CPU, for tests.
///
/// # Safety
/// As for [`gemm`].
unsafe fn host(alpha: f32, a: Factor, b: Factor, beta: f32, y: Factor) -> Result<()> {
    let (m, n, k) = (y.rows, y.columns, a.columns);
    // SAFETY: the caller promises valid addresses.
    let (left, right) = unsafe { (read(a)?, read(b)?) };
    let mut sums = vec![0.0f32; m * n];
    let (left_row, left_column) = strides(a);
    let (right_row, right_column) = strides(b);
    let (sums_at, left, right) = (sums.as_mut_ptr(), left.as_ptr(), right.as_ptr());
    let alone = ::gemm::Parallelism::None;
    // SAFETY: `read` gives matrices with these strides, and `sums` is `[m, n]`.
    unsafe {
        #[rustfmt::skip]
        ::gemm::gemm(
            m, n, k, sums_at, 1, n as isize, false, left, left_column, left_row, right, right_column, right_row, 0.0, alpha, false,
            false, false, alone,
        );
    }
    // SAFETY: the caller promises valid addresses.
    unsafe { write(&sums, beta, y) }
}

/// The distances between neighbouring rows and between neighbouring columns of what [`read`] gives.
fn strides(factor: Factor) -> (isize, isize) {
    if factor.transposed { (1, factor.rows as isize) } else { (factor.columns as isize, 1) }
}

/// The elements as f32, stored row by row without gaps.
///
/// # Safety
/// The address must be valid for reads of the factor's rows, each `stride` elements after the one before.
unsafe fn read(factor: Factor) -> Result<Vec<f32>> {
    let (rows, width) = if factor.transposed { (factor.columns, factor.rows) } else { (factor.rows, factor.columns) };
    let index = move |i: usize| i / width * factor.stride + i % width;
    let all = 0..rows * width;
    // SAFETY: `index` stays inside of the rows, of which the caller promises that they can be read.
    Ok(unsafe {
        match factor.dtype {
            DType::F32 => all.map(|i| (factor.address as *const f32).add(index(i)).read()).collect(),
            DType::BF16 => all.map(|i| (factor.address as *const bf16).add(index(i)).read().to_f32()).collect(),
            DType::F16 => all.map(|i| (factor.address as *const f16).add(index(i)).read().to_f32()).collect(),
            other => bail!("gemm: no product of {other:?}"),
        }
    })
}

/// Writes `sums + beta * y` to y.
///
/// # Safety
/// The address must be valid for writes of y's rows, each `stride` elements after the one before, and for reads unless `beta` is 0.
unsafe fn write(sums: &[f32], beta: f32, y: Factor) -> Result<()> {
    let index = |i: usize| i / y.columns * y.stride + i % y.columns;
    // The memory behind y may be fresh, so it is read only if it counts.
    let reads = beta != 0.0;
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: `index` stays inside of the rows, of which the caller promises that they can be written, and read if `beta` counts.
        unsafe {
            match y.dtype {
                DType::F32 => {
                    let at = (y.address as *mut f32).add(index(i));
                    at.write(if reads { sum + beta * at.read() } else { *sum });
                }
                DType::BF16 => {
                    let at = (y.address as *mut bf16).add(index(i));
                    at.write(bf16::from_f32(if reads { sum + beta * at.read().to_f32() } else { *sum }));
                }
                DType::F16 => {
                    let at = (y.address as *mut f16).add(index(i));
                    at.write(f16::from_f32(if reads { sum + beta * at.read().to_f32() } else { *sum }));
                }
                other => bail!("gemm: no product of {other:?}"),
            }
        }
    }
    Ok(())
}

#[cfg(feature = "cuda")]
mod cublas {
    use std::ffi::{c_int, c_void};

    use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t::{self, CUBLAS_OP_N, CUBLAS_OP_T};
    use candle_core::cuda_backend::cudarc::cublas::sys::cudaDataType_t::{self, CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
    use candle_core::{CudaDevice, DType, Error, Result, bail};

    use super::Factor;

    /// The product by cuBLAS, whose matrices are stored column by column. A matrix that is stored row by row is the transpose of one
    /// stored column by column, so cuBLAS is asked for `y^T = b^T a^T`.
    ///
    /// # Safety
    /// As for [`super::gemm`].
    pub(super) unsafe fn gemm(
        device: &CudaDevice,
        alpha: f32,
        a: Factor,
        b: Factor,
        beta: f32,
        y: Factor,
    ) -> Result<()> {
        device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
        let blas = device.cublas_handle();
        let [(a_op, a_type, a_step), (b_op, b_type, b_step), (_, y_type, y_step)] =
            [operand(a)?, operand(b)?, operand(y)?];
        // The compute type is plain f32: no product of f32 runs on the tensor cores' shorter floats.
        // SAFETY: the caller promises valid addresses; both scalars are read before the call returns.
        let result = unsafe {
            gemm_ex(
                *blas.handle(),
                b_op,
                a_op,
                int(y.columns)?,
                int(y.rows)?,
                int(a.columns)?,
                (&raw const alpha).cast(),
                b.address as *const c_void,
                b_type,
                b_step,
                a.address as *const c_void,
                a_type,
                a_step,
                (&raw const beta).cast(),
                y.address as *mut c_void,
                y_type,
                y_step,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        };
        result.map_err(|error| {
            let product = format!("cuBLAS: [{}, {}] of {:?} times [{1}, {}]", a.rows, a.columns, a.dtype, b.columns);
            Error::wrap(error).context(product)
        })
    }

    fn operand(factor: Factor) -> Result<(cublasOperation_t, cudaDataType_t, c_int)> {
        let dtype = match factor.dtype {
            DType::F32 => CUDA_R_32F,
            DType::BF16 => CUDA_R_16BF,
            DType::F16 => CUDA_R_16F,
            other => bail!("gemm: no product of {other:?}"),
        };
        Ok((if factor.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N }, dtype, int(factor.stride.max(1))?))
    }

    fn int(size: usize) -> Result<c_int> {
        c_int::try_from(size).map_err(Error::wrap)
    }
}
