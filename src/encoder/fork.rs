//! Forks: the rows of a text that several adapters shared are copied, so that each adapter gets its own.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::{Hooks, first_tokens};
use crate::ops::{Ops, Rotary};
use crate::params::{Input, Point};

/// The rows of a batch after a point at which some texts fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork<'a> {
    /// For each new row, the row that it copies, `[T]` of the new rows.
    pub rows: &'a [u32],
    /// The first new row of each text, then `T`: `[B + 1]`.
    pub offsets: &'a [usize],
}

/// The state of a batch's texts during a forward pass.
pub(super) struct Texts<'a> {
    /// The current first row of each text, then `T`.
    pub(super) offsets: &'a [usize],
    /// A tensor `[T, n]` that a later layer needs. It forks along with the rows.
    pub(super) kept: Option<Tensor>,
    /// The layer after whose attention only the first token of each text is needed.
    pub(super) last: Option<usize>,
    /// Rotary angles for the current offsets, by the bits of theta. They are made once for all layers that use the same theta.
    rotary: BTreeMap<u64, Rotary>,
    ops: &'a dyn Ops,
    hooks: &'a dyn Hooks,
}

impl<'a> Texts<'a> {
    pub(super) fn new(offsets: &'a [usize], ops: &'a dyn Ops, hooks: &'a dyn Hooks) -> Self {
        Self { offsets, kept: None, last: None, rotary: BTreeMap::new(), ops, hooks }
    }

    /// Asks the hooks whether rows fork at `input` of `layer`. If they do, forks every tensor of `live`, all `[T, n]`; otherwise
    /// copies nothing.
    pub(super) fn fork<const N: usize>(&mut self, layer: usize, input: Input, live: [&mut Tensor; N]) -> Result<()> {
        let Some(Fork { rows, offsets }) = self.hooks.fork(Point { layer, input }) else { return Ok(()) };
        for tensor in live.into_iter().chain(&mut self.kept) {
            *tensor = self.ops.gather(tensor, rows)?;
        }
        self.offsets = offsets;
        self.rotary.clear();
        Ok(())
    }

    /// Keeps only the first row of each text in every tensor of `live`, all `[T, n]`, if nothing reads the others after the attention of
    /// `layer`.
    pub(super) fn keep_first<const N: usize>(&self, layer: usize, live: [&mut Tensor; N]) -> Result<()> {
        if self.last != Some(layer) {
            return Ok(());
        }
        for tensor in live {
            *tensor = first_tokens(tensor, self.offsets)?;
        }
        Ok(())
    }

    /// The rotary angles of the texts for heads of `size` columns. All layers of an encoder have heads of one size.
    pub(super) fn rotary(&mut self, size: usize, theta: f64) -> Result<Rotary> {
        if let Some(rotary) = self.rotary.get(&theta.to_bits()) {
            return Ok(rotary.clone());
        }
        let rotary = Rotary::new(self.offsets, size, theta)?;
        self.rotary.insert(theta.to_bits(), rotary.clone());
        Ok(rotary)
    }
}
