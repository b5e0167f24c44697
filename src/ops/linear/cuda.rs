//! The GPU's form. The base's products run in cuBLAS; at most two kernels then add what adapters change, the biases and GELU.

use candle_core::{Result, Tensor, bail};

use super::finish::{Pieces, TARGETS, Unfinished, finish, rowwise};
use super::operands::{Product, bias_of, check, places, products, tracked_parameter, typed_weight};
use super::{Added, Linear, Segment, trained, training};
use crate::cuda::{Matrix, Output};
use crate::params::Delta;

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

fn tracked_delta(delta: &Delta) -> bool {
    delta.a.track_op() || delta.b.track_op()
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
