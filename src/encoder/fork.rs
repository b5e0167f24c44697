//! Where texts fork: rows that several adapters shared become a row for each.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::Hooks;
use crate::ops::Rotary;
use crate::params::{Input, Point};

/// The rows after a point at which some of them fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork<'a> {
    /// Which row each row goes on from, `[T]` of the new rows.
    pub rows: &'a [u32],
    /// Where each text now begins, and `T` at the end: `[B + 1]`.
    pub offsets: &'a [usize],
}

/// The texts of a batch on their way through an encoder.
pub(super) struct Texts<'a> {
    /// Where each begins at present, and `T` at the end.
    pub(super) offsets: &'a [usize],
    /// What is needed later than the layer at hand, and forks along with it: `[T, n]`.
    pub(super) kept: Option<Tensor>,
    /// Rotary angles of the present offsets, by the bits of theta: made once for all layers that rotate alike.
    rotary: BTreeMap<u64, Rotary>,
    hooks: &'a dyn Hooks,
}

impl<'a> Texts<'a> {
    pub(super) fn new(offsets: &'a [usize], hooks: &'a dyn Hooks) -> Self {
        Self { offsets, kept: None, rotary: BTreeMap::new(), hooks }
    }

    /// Asks the hooks whether rows fork at `input` of `layer`, and forks every tensor of `live`, all `[T, n]`. Nothing is copied
    /// where none do.
    pub(super) fn fork<const N: usize>(&mut self, layer: usize, input: Input, live: [&mut Tensor; N]) -> Result<()> {
        let Some(Fork { rows, offsets }) = self.hooks.fork(Point { layer, input }) else { return Ok(()) };
        let mut live = live.into_iter().chain(&mut self.kept).peekable();
        if let Some(first) = live.peek() {
            let rows = Tensor::new(rows, first.device())?;
            for tensor in live {
                *tensor = tensor.index_select(&rows, 0)?;
            }
        }
        self.offsets = offsets;
        self.rotary.clear();
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
