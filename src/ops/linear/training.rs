//! Linears on a GPU with gradients. A frozen weight has none; trained parameters may be f32 masters of activations in bf16 or f16,
//! and get f32 gradients.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::finish::{TypedDelta, Unfinished, finish, rowwise};
use super::launch_plan::Piece;
use super::operands::{bias_of, check, product, tracked_parameter, typed_weight};
use super::{Added, Linear, Segment};
use crate::cuda::{Factor, Matrix, Output, Place, address, gemm, recorded};
use crate::ops::gelu;
use crate::params::{Delta, Param};

pub(super) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let (weight, bias) = (&linear.weight, &linear.bias);
    let y = match &linear.added {
        Added::Nothing => base(x, weight, bias)?,
        Added::Whole(delta) if tracked_parameter(weight) || tracked_parameter(bias) => {
            (base(x, weight, bias)? + low_rank(x, None, delta)?)?
        }
        Added::Whole(delta) => low_rank(x, Some((weight, bias)), delta)?,
        Added::Segments(segments) => {
            check(segments, x.dim(0)?)?;
            add_segments(x, &base(x, weight, bias)?, segments)?
        }
        Added::Trained(_) => bail!("linear: a trained delta has gradients of its own"),
    };
    if linear.gelu { gelu::cuda(&y) } else { Ok(y) }
}

/// `y` plus each segment's delta. The segments must fit.
pub(super) fn add_segments(x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let (mut parts, mut next, tokens) = (Vec::with_capacity(2 * segments.len() + 1), 0, y.dim(0)?);
    for Segment { rows, delta } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
        if rows.start > next {
            parts.push(y.narrow(0, next, rows.start - next)?);
        }
        let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
        parts.push((part(y)? + low_rank(&part(x)?, None, delta)?)?);
        next = rows.end;
    }
    if next < tokens || parts.is_empty() {
        parts.push(y.narrow(0, next, tokens - next)?);
    }
    Tensor::cat(&parts, 0)
}

/// `x W^T + b`, differentiable in all three.
fn base(x: &Tensor, weight: &Param, bias: &Param) -> Result<Tensor> {
    let typed = typed_weight(x, weight)?;
    let y = product_and_bias(x, &typed, bias, &[])?.0;
    let (weight, bias) = (weight.tensor()?, bias.tensor()?);
    // SAFETY: the product writes every element.
    unsafe {
        recorded("linear", [x, &weight, &bias], y, move |[x, weight, bias], _, dy| {
            let dy = &like(dy, x)?;
            let dx = || Ok(times(1.0, of(dy)?, of(&typed)?, x.dtype(), x.device())?.tensor());
            let dweight = || {
                let dweight = times(1.0, of(dy)?.t(), of(x)?, DType::F32, x.device())?.tensor();
                dweight.to_dtype(weight.dtype())
            };
            let dbias = || column_sums(dy)?.to_dtype(bias.dtype());
            Ok([if_tracked(x, dx)?, if_tracked(weight, dweight)?, if_tracked(bias, dbias)?])
        })
    }
}

/// `scale * (x A^T) B^T`, plus `x W^T + b` of a frozen linear; differentiable in `x`, `A` and `B`. With `H = scale * x A^T` and
/// `dH = scale * dY B`: `dx = dY W + dH A`, `dA = dH^T x`, `dB = dY^T H`.
fn low_rank(x: &Tensor, frozen: Option<(&Param, &Param)>, delta: &Delta) -> Result<Tensor> {
    let weight = frozen.map(|(weight, _)| typed_weight(x, weight)).transpose()?;
    let (rows, out) = (x.dim(0)?, weight.as_ref().unwrap_or(&delta.b).dim(0)?);
    let typed = TypedDelta::new(x, delta, out)?;
    let some = rows > 0 && typed.a.dim(0)? > 0;
    let pieces = if some { vec![typed.piece(0..rows)?] } else { Vec::new() };
    let (y, h) = match (&weight, frozen) {
        (Some(weight), Some((_, bias))) => product_and_bias(x, weight, bias, &pieces)?,
        _ => alone(x, out, &pieces)?,
    };
    // SAFETY: a product or the kernel writes every element.
    unsafe {
        recorded("low-rank", [x, &delta.a, &delta.b], y, move |[x, a, b], _, dy| {
            let dy = &like(dy, x)?;
            let TypedDelta { a: typed_a, bt, scale, .. } = &typed;
            let rank = bt.dim(0)?;
            let dh = times(*scale, of(dy)?, of(bt)?.t(), x.dtype(), x.device())?.tensor();
            let da = || times(1.0, of(&dh)?.t(), of(x)?, DType::F32, x.device())?.tensor().to_dtype(a.dtype());
            let db = || match &h {
                Some(h) => {
                    // The kernel pads the rows of h to a multiple of eight elements.
                    let h = Factor::at(address(h)?, [rows, rank], rank.next_multiple_of(8), h.dtype());
                    times(1.0, of(dy)?.t(), h, DType::F32, x.device())?.tensor().to_dtype(b.dtype())
                }
                None => b.zeros_like(),
            };
            let dx = || {
                let Some(weight) = &weight else {
                    return Ok(times(1.0, of(&dh)?, of(typed_a)?, x.dtype(), x.device())?.tensor());
                };
                let dx = times(1.0, of(dy)?, of(weight)?, x.dtype(), x.device())?;
                gemm(&Place::of(x.device())?, 1.0, of(&dh)?, of(typed_a)?, 1.0, whole(&dx, x.dtype())?)?;
                Ok(dx.tensor())
            };
            Ok([if_tracked(x, dx)?, if_tracked(a, da)?, if_tracked(b, db)?])
        })
    }
}

/// `x W^T + b` plus deltas, and what [`finish`] returns.
fn product_and_bias(x: &Tensor, weight: &Tensor, bias: &Param, pieces: &[Piece]) -> Result<(Output, Option<Tensor>)> {
    let out = weight.dim(0)?;
    let bias = bias_of(bias, out)?;
    let y = product(x, weight, out)?;
    let place = (y.address(), out);
    let output = Unfinished { from: place, to: place, out, bias: bias.as_ref(), gelu: false, pieces };
    // SAFETY: the place is that of the product.
    let h = unsafe { finish(x, &[output])? };
    Ok((y, h))
}

/// Deltas that are added to nothing.
fn alone(x: &Tensor, out: usize, pieces: &[Piece]) -> Result<(Output, Option<Tensor>)> {
    let rows = x.dim(0)?;
    let zeros = Tensor::zeros((rows, out), x.dtype(), x.device())?;
    let y = Output::new((rows, out), x.dtype(), x.device())?;
    let (from, to) = ((address(&zeros)?, out), (y.address(), out));
    let output = Unfinished { from, to, out, bias: None, gelu: false, pieces };
    // SAFETY: both are matrices of `rows` rows; the kernel copies every row.
    let h = unsafe { finish(x, &[output])? };
    Ok((y, h))
}

/// The gradient of an input, if it needs one.
fn if_tracked(input: &Tensor, gradient: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    input.track_op().then(gradient).transpose()
}

/// `dy` as rows of x's type.
pub(super) fn like(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    rowwise(&dy.to_dtype(x.dtype())?)
}

/// The sum of the rows of dy, in f32.
fn column_sums(dy: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones((1, dy.dim(0)?), dy.dtype(), dy.device())?;
    // SAFETY: `times` writes every element.
    unsafe { times(1.0, of(&ones)?, of(dy)?, DType::F32, dy.device())?.tensor() }.flatten_all()
}

pub(super) fn of(tensor: &Tensor) -> Result<Factor> {
    Matrix::of("linear", tensor).map(Factor::from)
}

pub(super) fn whole(output: &Output, dtype: DType) -> Result<Factor> {
    let (rows, columns) = output.shape().dims2()?;
    Ok(Factor::at(output.address(), [rows, columns], columns, dtype))
}

/// `alpha * a b` in `dtype`.
///
/// # Safety
/// The factors must be those of tensors on `device`, which live until the product is queued.
unsafe fn times(alpha: f32, a: Factor, b: Factor, dtype: DType, device: &Device) -> Result<Output> {
    let y = Output::new((a.rows, b.columns), dtype, device)?;
    // SAFETY: the caller promises the factors, and `y` has the shape of the product.
    unsafe { gemm(&Place::of(device)?, alpha, a, b, 0.0, whole(&y, dtype)?)? };
    Ok(y)
}
