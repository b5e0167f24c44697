//! The reference: candle's operations, one text at a time.

use candle_core::{D, Result, Tensor};

use super::{Heads, mask};

pub(in crate::ops) fn reference([q, k, v]: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
    let hidden = heads.check([q, k, v])?;
    let mut texts = Vec::with_capacity(heads.offsets.len());
    for (text, span) in heads.offsets.windows(2).enumerate().filter(|(_, span)| span[0] < span[1]) {
        let len = span[1] - span[0];
        let split = |x: &Tensor| {
            x.narrow(0, span[0], len)?.reshape((len, heads.heads, hidden / heads.heads))?.transpose(0, 1)?.contiguous()
        };
        let mut scores = (split(q)?.matmul(&split(k)?.t()?)? * heads.scale)?;
        if let Some(bias) = heads.bias {
            let middle = bias.dim(1)? / 2;
            let columns: Vec<u32> = (0..len * len).map(|at| (middle + at % len - at / len) as u32).collect();
            let columns = Tensor::from_vec(columns, len * len, q.device())?;
            scores = (scores + bias.index_select(&columns, 1)?.reshape((heads.heads, len, len))?)?;
        }
        if let Some(window) = heads.window {
            let hidden = |i: usize, j: usize| if i.abs_diff(j) > window { f32::NEG_INFINITY } else { 0.0 };
            let mask: Vec<f32> = (0..len * len).map(|at| hidden(at / len, at % len)).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(mask, (len, len), q.device())?)?;
        }
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let mut weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        if let Some(dropout) = heads.dropout {
            let mask = |head| mask(dropout, text, head, 0).take(len * len);
            let masks: Vec<f32> = (0..heads.heads).flat_map(mask).collect();
            weights = (weights * Tensor::from_vec(masks, (heads.heads, len, len), q.device())?)?;
        }
        texts.push(weights.matmul(&split(v)?)?.transpose(0, 1)?.reshape((len, hidden))?);
    }
    if texts.is_empty() { q.zeros_like() } else { Tensor::cat(&texts, 0) }
}
