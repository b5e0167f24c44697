//! The reference: candle's operations, one segment at a time.

use candle_core::{Result, Tensor, bail};

use super::{Added, Linear, Segment};
use crate::params::Delta;

pub(in crate::ops) fn reference(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let y = x.matmul(&linear.weight.tensor()?.t()?)?.broadcast_add(&linear.bias.tensor()?)?;
    let y = match &linear.added {
        Added::Nothing => y,
        Added::Whole(delta) => add_delta(x, &y, delta)?,
        Added::Segments(segments) => add_segments_reference(x, &y, segments)?,
        Added::Trained(_) => bail!("linear: only a GPU trains a delta in memory of its own"),
    };
    if linear.gelu { y.gelu_erf() } else { Ok(y) }
}

/// `y + scale * (x A^T) B^T`.
fn add_delta(x: &Tensor, y: &Tensor, delta: &Delta) -> Result<Tensor> {
    y + (x.matmul(&delta.a.t()?)?.matmul(&delta.b.t()?)? * delta.scale)?
}

pub(in crate::ops) fn add_segments_reference(x: &Tensor, y: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let tokens = y.dim(0)?;
    let mut parts = Vec::with_capacity(2 * segments.len() + 1);
    let mut next = 0;
    for Segment { rows, delta } in segments.iter().filter(|segment| !segment.rows.is_empty()) {
        if rows.start < next || rows.end > tokens {
            bail!("linear: rows {rows:?} overlap others or lie outside {tokens} tokens");
        }
        if rows.start > next {
            parts.push(y.narrow(0, next, rows.start - next)?);
        }
        let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
        parts.push(add_delta(&part(x)?, &part(y)?, delta)?);
        next = rows.end;
    }
    if parts.is_empty() {
        return Ok(y.clone());
    }
    if next < tokens {
        parts.push(y.narrow(0, next, tokens - next)?);
    }
    Tensor::cat(&parts, 0)
}
