//! From hidden states to logits: the first token of each text, and an adapter's own head over it.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::{Encoder, Packed, Seam};

/// The tensors of a head by their names in checkpoints ([`super::Layout::head`]).
pub type Head = BTreeMap<String, Tensor>;

/// The first token of each text: `hidden [T, hidden]` to `[B, hidden]`.
///
/// # Errors
/// Candle's own.
pub fn first_tokens(hidden: &Tensor, batch: &Packed) -> Result<Tensor> {
    let starts: Vec<u32> = batch.offsets[..batch.texts()].iter().map(|&start| start as u32).collect();
    hidden.index_select(&Tensor::from_vec(starts, batch.texts(), hidden.device())?, 0)
}

/// Logits `[B, labels]` of a batch whose texts all take the same head.
///
/// # Errors
/// A head without what the architecture needs, and candle's own.
pub fn head_logits(
    encoder: &dyn Encoder,
    hidden: &Tensor,
    batch: &Packed,
    head: &Head,
    seam: &dyn Seam,
) -> Result<Tensor> {
    encoder.logits(&first_tokens(hidden, batch)?, head, seam)
}
