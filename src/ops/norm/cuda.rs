//! The GPU's form, with the gradients of the rows and of trained parameters.

use candle_core::{DType, Result, Tensor, bail};

use super::Norm;
use crate::cuda::{Grid, Matrix, Output, Params, Place, address, launch, recorded};
use crate::ops::rows::{grid, in_eights, neighbouring};

/// `NormParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct NormParams {
    h: u64,
    r: u64,
    weight: u64,
    bias: u64,
    dy: u64,
    y: u64,
    stats: u64,
    h_stride: u64,
    r_stride: u64,
    dy_stride: u64,
    rows: u32,
    width: u32,
    eps: f32,
    fast: u32,
}

// SAFETY: the struct is that of the kernels.
unsafe impl Params for NormParams {}

/// The number of threads in a block, `ROWS_THREADS` in `rows.cuh`.
const THREADS: usize = 256;

/// The number of rows in a chunk of the parameters' gradient, `NORM_CHUNK` in `kernels.cu`.
const CHUNK: usize = 64;

/// The widest rows that a warp, and that a block, keeps in registers.
const NARROW: usize = 1024;
const WIDE: usize = 4096;

/// Shared memory for the four sums of a block, each with a number of every warp.
const SHARED: usize = 4 * (THREADS / 32) * size_of::<f32>();

/// Weight and bias, `[width]`, f32, and what is added to the variance.
#[derive(Clone)]
struct Parameters {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

/// What a kernel reads: rows, perhaps a residual, parameters.
struct Inputs<'a> {
    h: Matrix<'a>,
    residual: Option<Matrix<'a>>,
    parameters: &'a Parameters,
}

impl<'a> Inputs<'a> {
    fn of(h: &'a Tensor, residual: Option<&'a Tensor>, parameters: &'a Parameters) -> Result<Self> {
        let rows = Matrix::of("norm", h)?;
        let residual = residual.map(|residual| Matrix::of("norm", residual)).transpose()?;
        let width = parameters.weight.elem_count();
        let same = |r: &Matrix| (r.rows, r.width, r.dtype) == (rows.rows, rows.width, rows.dtype);
        if rows.width != width || parameters.bias.elem_count() != width || !residual.as_ref().is_none_or(same) {
            let (found, other) = (h.dims(), residual.map(|r| (r.rows, r.width, r.dtype)));
            bail!("norm: expected rows of {width} {:?}, found {found:?}, residual of {other:?}", rows.dtype);
        }
        Ok(Self { h: rows, residual, parameters })
    }

    /// The kernels' parameters, with `y` as the output and perhaps the gradient of the result.
    fn params(&self, y: &Output, dy: Option<&Matrix>) -> Result<NormParams> {
        let fast = in_eights([&self.h]) && [self.residual.as_ref(), dy].into_iter().flatten().all(|m| in_eights([m]));
        let (weight, bias) = (address(&self.parameters.weight)?, address(&self.parameters.bias)?);
        Ok(NormParams {
            h: self.h.address,
            r: self.residual.as_ref().map_or(0, |r| r.address),
            weight,
            bias,
            dy: dy.map_or(0, |dy| dy.address),
            y: y.address(),
            stats: 0,
            h_stride: self.h.stride as u64,
            r_stride: self.residual.as_ref().map_or(0, |r| r.stride as u64),
            dy_stride: dy.map_or(0, |dy| dy.stride as u64),
            rows: self.h.rows as u32,
            width: self.h.width as u32,
            eps: self.parameters.eps,
            fast: u32::from(fast && weight.is_multiple_of(16) && bias.is_multiple_of(16)),
        })
    }

    /// A warp or a block for each row.
    fn grid(&self) -> Result<Grid> {
        let threads = if self.h.width <= NARROW { 32 } else { THREADS };
        Ok(Grid { shared: SHARED, ..grid("norm", self.h.rows * threads)? })
    }

    /// The kernel for rows of this width.
    fn kernel(&self, backward: bool) -> &'static str {
        match (self.h.width, backward) {
            (..=NARROW, false) => "norm",
            (..=NARROW, true) => "norm_backward",
            (..=WIDE, false) => "norm_wide",
            (..=WIDE, true) => "norm_wide_backward",
            (_, false) => "norm_widest",
            (_, true) => "norm_widest_backward",
        }
    }
}

fn forward(h: &Tensor, residual: Option<&Tensor>, parameters: &Parameters) -> Result<Output> {
    let inputs = Inputs::of(h, residual, parameters)?;
    let y = Output::new(h.shape(), h.dtype(), h.device())?;
    let (grid, params) = (inputs.grid()?, inputs.params(&y, None)?);
    // SAFETY: `Inputs::of` has checked the shapes and types, and the output has the shape of `h`.
    unsafe { launch(&Place::of(h.device())?, inputs.kernel(false), h.dtype(), grid, &params)? };
    Ok(y)
}

/// The gradient of `h` and the residual; and of weight and bias, `[2, width]`, if they are `trained`.
fn backward(
    h: &Tensor,
    residual: Option<&Tensor>,
    parameters: &Parameters,
    dy: &Tensor,
    trained: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (dy, place) = (neighbouring(&dy.to_dtype(h.dtype())?)?, Place::of(h.device())?);
    let (inputs, dy) = (Inputs::of(h, residual, parameters)?, Matrix::of("norm", &dy)?);
    let (rows, width) = (inputs.h.rows, inputs.h.width);
    let dx = Output::new(h.shape(), h.dtype(), h.device())?;
    let stats = trained.then(|| Output::new((rows, 2), DType::F32, h.device())).transpose()?;
    let params = inputs.params(&dx, Some(&dy))?;
    let params = NormParams { stats: stats.as_ref().map_or(0, Output::address), ..params };
    // SAFETY: `Inputs::of` has checked the shapes and types, and `dy` and the outputs have the shape and type of `h`.
    let dx = unsafe {
        launch(&place, inputs.kernel(true), h.dtype(), inputs.grid()?, &params)?;
        dx.tensor()
    };
    let Some(stats) = stats else { return Ok((dx, None)) };
    let chunks = rows.div_ceil(CHUNK);
    let sums = Output::new((chunks, 2, width), DType::F32, h.device())?;
    let params = NormParams { y: sums.address(), stats: stats.address(), ..params };
    let grid = Grid { blocks: [chunks, width.div_ceil(THREADS), 1], threads: THREADS, shared: 0 };
    // SAFETY: as above; the kernel before has written the statistics of every row, and this one writes all sums.
    let sums = unsafe {
        launch(&place, "norm_parameters", h.dtype(), grid, &params)?;
        sums.tensor()
    };
    Ok((dx, Some(sums.sum(0)?)))
}

pub(in crate::ops) fn cuda(h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
    let (h, residual) = (neighbouring(h)?, residual.map(neighbouring).transpose()?);
    let vector = |tensor: Tensor| tensor.to_dtype(DType::F32)?.contiguous();
    let (weight, bias) = (vector(norm.weight.tensor()?)?, vector(norm.bias.tensor()?)?);
    let eps = norm.eps as f32;
    if !(weight.track_op() || bias.track_op()) {
        return frozen(&h, residual.as_ref(), Parameters { weight, bias, eps });
    }
    let both = Tensor::stack(&[&weight, &bias], 0)?;
    trained(&h, residual.as_ref(), &both, eps)
}

/// The norm with parameters that are not trained.
fn frozen(h: &Tensor, residual: Option<&Tensor>, parameters: Parameters) -> Result<Tensor> {
    let y = forward(h, residual, &parameters)?;
    // SAFETY: the kernel writes every row.
    unsafe {
        match residual {
            None => {
                recorded("norm", [h], y, move |[h], _, dy| Ok([Some(backward(h, None, &parameters, dy, false)?.0)]))
            }
            Some(residual) => recorded("norm", [h, residual], y, move |[h, r], _, dy| {
                let (dx, _) = backward(h, Some(r), &parameters, dy, false)?;
                Ok([Some(dx.clone()), Some(dx)])
            }),
        }
    }
}

/// The norm with weight and bias in `both [2, width]`.
fn trained(h: &Tensor, residual: Option<&Tensor>, both: &Tensor, eps: f32) -> Result<Tensor> {
    let parameters = move |both: &Tensor| -> Result<Parameters> {
        let both = both.detach();
        Ok(Parameters { weight: both.get(0)?, bias: both.get(1)?, eps })
    };
    let y = forward(h, residual, &parameters(both)?)?;
    // SAFETY: the kernel writes every row.
    unsafe {
        match residual {
            None => recorded("norm", [h, both], y, move |[h, both], _, dy| {
                let (dx, sums) = backward(h, None, &parameters(both)?, dy, true)?;
                Ok([Some(dx), sums])
            }),
            Some(residual) => recorded("norm", [h, residual, both], y, move |[h, r, both], _, dy| {
                let (dx, sums) = backward(h, Some(r), &parameters(both)?, dy, true)?;
                Ok([Some(dx.clone()), Some(dx), sums])
            }),
        }
    }
}
