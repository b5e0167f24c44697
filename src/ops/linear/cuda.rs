//! The GPU's form. The base's products run in cuBLAS; at most two kernels then add what adapters change, the biases and GELU.

use candle_core::{Result, Tensor, bail};

use super::finish::{Pieces, TARGETS, Unfinished, finish, rowwise, typed_bias};
use super::{Added, Linear, Segment, trained, training};
use crate::cuda::{Factor, Matrix, Output, Place, address, gemm};
use crate::params::{Delta, Param};

pub(in crate::ops) fn cuda(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let x = &rowwise(x)?;
    if linears.iter().any(|linear| matches!(linear.added, Added::Trained(_))) {
        return trained::linears(x, linears);
    }
    if x.track_op() || linears.iter().any(tracked) {
        return linears.iter().map(|linear| training::linear(x, linear)).collect();
    }
    let mut all = Vec::with_capacity(linears.len());
    for some in linears.chunks(TARGETS) {
        all.extend(inference(x, some)?);
    }
    Ok(all)
}

pub(in crate::ops) fn add_segments_cuda(x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let (x, y) = (&rowwise(x)?, &rowwise(&y.to_dtype(x.dtype())?)?);
    check(segments, y.dim(0)?)?;
    if x.track_op() || y.track_op() || segments.iter().any(|segment| tracked_delta(segment.delta)) {
        return training::add_segments(x, y, segments);
    }
    let (rows, out) = y.dims2()?;
    if x.dim(0)? != rows {
        bail!("linear: deltas of {} rows cannot be added to {rows}", x.dim(0)?);
    }
    let pieces = pieces(x, segments, out)?;
    if pieces.all().is_empty() {
        return Ok(y.clone());
    }
    let sum = Output::new(y.shape(), y.dtype(), y.device())?;
    let from = Matrix::of("linear", y)?;
    let output = Unfinished {
        from: (from.address, from.stride),
        to: (sum.address(), out),
        out,
        bias: None,
        gelu: false,
        pieces: pieces.all(),
    };
    // SAFETY: both are matrices of `rows` rows; the kernel copies every row, so `sum` is complete.
    unsafe {
        finish(x, &[output])?;
        Ok(sum.tensor())
    }
}

fn tracked(linear: &Linear) -> bool {
    let delta = match &linear.added {
        Added::Nothing => false,
        Added::Whole(delta) => tracked_delta(delta),
        Added::Trained(_) => true,
        Added::Segments(segments) => segments.iter().any(|segment| tracked_delta(segment.delta)),
    };
    delta || tracked_parameter(&linear.weight) || tracked_parameter(&linear.bias)
}

/// Whether a parameter is trained.
pub(super) fn tracked_parameter(param: &Param) -> bool {
    matches!(param, Param::Tensor(tensor) if tensor.track_op())
}

fn tracked_delta(delta: &Delta) -> bool {
    delta.a.track_op() || delta.b.track_op()
}

/// Checks that segments do not overlap and lie inside the batch.
fn check(segments: &[Segment], tokens: usize) -> Result<()> {
    let mut next = 0;
    for Segment { rows, .. } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
        if rows.start < next || rows.end > tokens {
            bail!("linear: rows {rows:?} overlap others or lie outside {tokens} tokens");
        }
        next = rows.end;
    }
    Ok(())
}

/// The deltas of segments, which must fit.
fn pieces(x: &Tensor, segments: &[Segment], out: usize) -> Result<Pieces> {
    check(segments, x.dim(0)?)?;
    let mut pieces = Pieces::default();
    for Segment { rows, delta } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
        pieces.push(x, rows.clone(), delta, out)?;
    }
    Ok(pieces)
}

/// A linear's weight in the type of x, without its gradient.
///
/// # Errors
/// If it is not a matrix of x's width.
pub(super) fn typed_weight(x: &Tensor, weight: &Param) -> Result<Tensor> {
    let name = match weight {
        Param::Frozen(frozen) => frozen.name(),
        Param::Tensor(_) => "",
    };
    let weight = weight.tensor()?.detach().to_dtype(x.dtype())?.contiguous()?;
    match (weight.dims(), x.dims2()?.1) {
        (&[_, width], found) if width == found => Ok(weight),
        (&[_, width], found) => bail!("linear {name}: expected rows of {width}, found {found}"),
        (dims, _) => bail!("linear {name}: the weight is not a matrix: {dims:?}"),
    }
}

/// The bias in f32, or `None` where the architecture has none.
pub(super) fn bias_of(bias: &Param, out: usize) -> Result<Option<Tensor>> {
    match bias {
        Param::Frozen(frozen) if frozen.is_absent() => Ok(None),
        bias => typed_bias(&bias.tensor()?, out).map(Some),
    }
}

/// Without gradients.
fn inference(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let rows = x.dim(0)?;
    let weights = linears.iter().map(|linear| typed_weight(x, &linear.weight)).collect::<Result<Vec<_>>>()?;
    let (mut biases, mut deltas) = (Vec::with_capacity(linears.len()), Vec::<Pieces>::with_capacity(linears.len()));
    for (linear, weight) in linears.iter().zip(&weights) {
        let out = weight.dim(0)?;
        biases.push(bias_of(&linear.bias, out)?);
        deltas.push(match &linear.added {
            Added::Nothing => Pieces::default(),
            Added::Whole(delta) => pieces(x, &[Segment { rows: 0..rows, delta }], out)?,
            Added::Trained(_) => bail!("linear: a trained delta without gradients"),
            Added::Segments(segments) => pieces(x, segments, out)?,
        });
    }
    let products = products(x, &weights)?;
    let mut outputs = Vec::with_capacity(linears.len());
    for (i, place) in places(&products, x)?.into_iter().enumerate() {
        outputs.push(Unfinished {
            from: place,
            to: place,
            out: weights[i].dim(0)?,
            bias: biases[i].as_ref(),
            gelu: linears[i].gelu,
            pieces: deltas[i].all(),
        });
    }
    // SAFETY: the places are those of the products, which the queue has written before the kernels run.
    unsafe { finish(x, &outputs)? };
    let mut all = Vec::with_capacity(linears.len());
    for Product { y, outs } in products {
        // SAFETY: the product has written every element.
        let y = unsafe { y.tensor() };
        let mut column = 0;
        for &out in &outs {
            all.push(if outs.len() == 1 { y.clone() } else { y.narrow(1, column, out)? });
            column += out;
        }
    }
    Ok(all)
}

/// The product of x with one weight, or with several that lie one after the other in memory: then the outputs lie side by side.
pub(super) struct Product {
    pub(super) y: Output,
    /// The number of columns for each weight.
    pub(super) outs: Vec<usize>,
}

/// The address of each weight's part of the products, and the distance between rows.
pub(super) fn places(products: &[Product], x: &Tensor) -> Result<Vec<(u64, usize)>> {
    let mut places = Vec::new();
    for Product { y, outs } in products {
        let (stride, mut column) = (outs.iter().sum::<usize>(), 0);
        for out in outs {
            places.push((y.address() + (column * x.dtype().size_in_bytes()) as u64, stride));
            column += out;
        }
    }
    Ok(places)
}

/// `x W^T` for weights `[out, in]` of x's type, with as few products as possible.
pub(super) fn products(x: &Tensor, weights: &[Tensor]) -> Result<Vec<Product>> {
    let addresses = weights.iter().map(address).collect::<Result<Vec<_>>>()?;
    let end = |i: usize| addresses[i] + (weights[i].elem_count() * x.dtype().size_in_bytes()) as u64;
    let indices: Vec<usize> = (0..weights.len()).collect();
    let runs = indices.chunk_by(|a, b| end(*a) == addresses[*b]);
    runs.map(|run| {
        let outs = run.iter().map(|i| weights[*i].dim(0)).collect::<Result<Vec<_>>>()?;
        Ok(Product { y: product(x, &weights[run[0]], outs.iter().sum())?, outs })
    })
    .collect()
}

/// `x W^T` for a weight `[out, in]` of x's type. There must be elements for all of `out` at the weight's address.
pub(super) fn product(x: &Tensor, weight: &Tensor, out: usize) -> Result<Output> {
    let (rows, width) = x.dims2()?;
    let y = Output::new((rows, out), x.dtype(), x.device())?;
    let weight = Factor::at(address(weight)?, [out, width], width, x.dtype());
    let target = Factor::at(y.address(), [rows, out], out, x.dtype());
    // SAFETY: x and `y` are matrices of these shapes, and the caller has found that the weight is.
    unsafe { gemm(&Place::of(x.device())?, 1.0, Matrix::of("linear", x)?.into(), weight.t(), 0.0, target)? };
    Ok(y)
}
