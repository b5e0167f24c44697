//! Softmax attention over packed texts. Each text attends to itself; there is no padding and no padding mask.

mod cpu;
mod cuda;
mod fused;
mod reference;

use candle_core::{Result, Tensor, bail};

pub(super) use cpu::{cpu, softmax};
pub(super) use cuda::cuda;
pub(super) use fused::{Keys, MAX_FUSED_LEN, Positions, TextAttention, pack, packed_row, rows_per_block};
pub(super) use reference::reference;

use super::{Dropout, longest, splitmix};

/// The parameters of a batch's attention.
#[derive(Debug, Clone)]
pub struct Heads<'a> {
    /// The first row of each text, then `T`: `[B + 1]`.
    pub offsets: &'a [usize],
    /// Number of heads, which must divide the hidden size.
    pub heads: usize,
    /// The factor of the scores, `1 / sqrt(head size)`.
    pub scale: f64,
    /// The number of tokens that a token sees on either side; `None` for the whole text.
    pub window: Option<usize>,
    /// A bias added to the scaled scores, by head and distance: `[heads, 2 n - 1]` for texts of up to `n` tokens. Column `j - i + n
    /// - 1` belongs to query i and key j. The scale must not be 0.
    pub bias: Option<&'a Tensor>,
    /// Dropout of the attention weights, for training.
    pub dropout: Option<Dropout>,
}

impl Heads<'_> {
    /// Checks all shapes and returns the hidden size of `q`, `k` and `v`.
    fn check(&self, [q, k, v]: [&Tensor; 3]) -> Result<usize> {
        let (tokens, hidden) = q.dims2()?;
        let rises = self.offsets.windows(2).all(|span| span[0] <= span[1]);
        if !rises || self.offsets.first() != Some(&0) || self.offsets.last() != Some(&tokens) {
            bail!("attention: offsets {:?} do not span {tokens} tokens", self.offsets);
        }
        if self.heads == 0 || !hidden.is_multiple_of(self.heads) || k.dims() != q.dims() || v.dims() != q.dims() {
            bail!("attention: {} heads over q {:?}, k {:?}, v {:?}", self.heads, q.dims(), k.dims(), v.dims());
        }
        if let Some(bias) = self.bias {
            let columns = 2 * longest(self.offsets).max(1) - 1;
            let fits = bias.dims2().is_ok_and(|(rows, found)| rows == self.heads && found % 2 == 1 && found >= columns);
            if !fits || !(1.0 / self.scale as f32).is_finite() {
                let (count, scale, found) = (self.heads, self.scale, bias.dims());
                bail!(
                    "attention: expected a bias of [{count}, {columns}] or more columns, found {found:?}, scale {scale}"
                );
            }
        }
        Ok(hidden)
    }
}

/// The dropout mask of the weights `[len, len]` of one head of one text, from element `start` on.
pub(in crate::ops) fn mask(dropout: Dropout, text: usize, head: usize, start: usize) -> impl Iterator<Item = f32> {
    let seed = splitmix(dropout.seed ^ splitmix((text as u64) << 32 | head as u64));
    Dropout { seed, ..dropout }.mask(start as u64)
}
