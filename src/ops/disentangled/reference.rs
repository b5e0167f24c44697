//! The reference: candle's operations, one text at a time.

use candle_core::{D, Result, Tensor};

use super::{Attend, Dims, Disentangled, starts};
use crate::ops::Dropout;
use crate::ops::attention::mask;

pub(in crate::ops) fn reference(
    [q, k, v]: [&Tensor; 3],
    positions: &Tensor,
    how: &Disentangled,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let scores = scores(q, k, positions, how)?;
    attend(&scores, v, &Attend { offsets: how.offsets.clone(), heads: how.heads, dropout })
}

/// The scores of all texts, end to end.
pub(in crate::ops) fn scores(q: &Tensor, k: &Tensor, positions: &Tensor, how: &Disentangled) -> Result<Tensor> {
    let Dims { hidden, middle, .. } = how.check(q.shape(), k.shape(), positions.shape())?;
    let split = |x: Tensor| {
        let rows = x.dim(0)?;
        x.reshape((rows, how.heads, hidden / how.heads))?.transpose(0, 1)?.contiguous()
    };
    let mut all = Vec::with_capacity(how.texts.len());
    for (span, text) in how.offsets.windows(2).zip(&how.texts).filter(|(span, _)| span[0] < span[1]) {
        let len = span[1] - span[0];
        let (q, k) = (split(q.narrow(0, span[0], len)?)?, split(k.narrow(0, span[0], len)?)?);
        let mut scores = q.matmul(&k.t()?)?;
        let at = |row: fn(usize, usize) -> (usize, usize)| -> Result<Tensor> {
            let place = |at: usize| {
                let (i, j) = row(at / len, at % len);
                how.distances[middle + i - j] as u32
            };
            let index: Vec<u32> = (0..len * len).map(place).collect();
            Tensor::from_vec(index, (1, len, len), q.device())?.repeat((how.heads, 1, 1))
        };
        if let Some(start) = text.keys {
            let keys = split(positions.narrow(0, start, how.rows)?)?;
            scores = (scores + q.matmul(&keys.t()?)?.gather(&at(|i, j| (i, j))?, 2)?)?;
        }
        if let Some(start) = text.queries {
            let queries = split(positions.narrow(0, start, how.rows)?)?;
            // Row j of the product belongs to key j, so it is gathered by (j, i) and then transposed.
            let by_key = k.matmul(&queries.t()?)?.gather(&at(|j, i| (i, j))?, 2)?;
            scores = (scores + by_key.transpose(1, 2)?)?;
        }
        all.push((scores * how.scale)?.flatten_all()?);
    }
    if all.is_empty() { Tensor::zeros(0, q.dtype(), q.device()) } else { Tensor::cat(&all, 0) }
}

/// `softmax(scores) v`, `[T, hidden]`.
pub(in crate::ops) fn attend(scores: &Tensor, v: &Tensor, how: &Attend) -> Result<Tensor> {
    let hidden = how.check(scores.elem_count(), v.shape())?;
    let starts = starts(&how.offsets, how.heads);
    let mut texts = Vec::with_capacity(how.offsets.len());
    for (text, span) in how.offsets.windows(2).enumerate().filter(|(_, span)| span[0] < span[1]) {
        let len = span[1] - span[0];
        let scores = scores.narrow(0, starts[text], starts[text + 1] - starts[text])?.reshape((how.heads, len, len))?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let mut weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        if let Some(dropout) = how.dropout {
            let mask = |head| mask(dropout, text, head, 0).take(len * len);
            let masks: Vec<f32> = (0..how.heads).flat_map(mask).collect();
            weights = (weights * Tensor::from_vec(masks, (how.heads, len, len), v.device())?)?;
        }
        let v =
            v.narrow(0, span[0], len)?.reshape((len, how.heads, hidden / how.heads))?.transpose(0, 1)?.contiguous()?;
        texts.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((len, hidden))?);
    }
    if texts.is_empty() { v.zeros_like() } else { Tensor::cat(&texts, 0) }
}
