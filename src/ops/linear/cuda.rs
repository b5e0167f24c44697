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

pub(super) fn tracked(linear: &Linear) -> bool {
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

/// A linear without gradients as the kernels read it.
pub(super) struct Ready {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) out: usize,
    pub(super) gelu: bool,
}

impl Ready {
    pub(super) fn new(x: &Tensor, linear: &Linear) -> Result<Self> {
        let weight = typed_weight(x, &linear.weight)?;
        let out = weight.dim(0)?;
        Ok(Self { bias: bias_of(&linear.bias, out)?, weight, out, gelu: linear.gelu })
    }

    /// What `linear` adds to its output for x.
    pub(super) fn pieces(&self, x: &Tensor, linear: &Linear) -> Result<Pieces> {
        match &linear.added {
            Added::Nothing => Ok(Pieces::default()),
            Added::Whole(delta) => pieces(x, &[Segment { rows: 0..x.dim(0)?, delta }], self.out),
            Added::Trained(_) => bail!("linear: a trained delta without gradients"),
            Added::Segments(segments) => pieces(x, segments, self.out),
        }
    }

    /// The output at a place, with these pieces.
    pub(super) fn unfinished<'a>(&'a self, place: (u64, usize), pieces: &'a Pieces) -> Unfinished<'a> {
        let bias = self.bias.as_ref();
        Unfinished { from: place, to: place, out: self.out, bias, gelu: self.gelu, pieces: pieces.all() }
    }
}

/// Without gradients.
fn inference(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let ready = linears.iter().map(|linear| Ready::new(x, linear)).collect::<Result<Vec<_>>>()?;
    let pieces =
        ready.iter().zip(linears).map(|(ready, linear)| ready.pieces(x, linear)).collect::<Result<Vec<_>>>()?;
    let products = products(x, &ready.iter().map(|ready| ready.weight.clone()).collect::<Vec<_>>())?;
    let places = places(&products, x)?;
    let outputs = ready.iter().zip(&pieces).zip(places);
    let outputs: Vec<Unfinished> = outputs.map(|((ready, pieces), place)| ready.unfinished(place, pieces)).collect();
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
