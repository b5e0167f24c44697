//! Forks: the rows of a text that several adapters shared are copied, so that each adapter gets its own. Rows that nothing reads any more
//! are left out in the same way.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{DropPoint, Hooks};
use crate::ops::{Added, Dropout, Ops, Rotary};
use crate::params::{Delta, Input, Point, Site};

/// The rows of a batch after a point at which some texts fork, or at which only first tokens stay.
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
    /// Rotary angles for the current offsets, by the bits of theta. They are made once for all layers that use the same theta.
    rotary: BTreeMap<u64, Rotary>,
    ops: &'a dyn Ops,
    hooks: &'a dyn Hooks,
}

impl<'a> Texts<'a> {
    pub(super) fn new(offsets: &'a [usize], ops: &'a dyn Ops, hooks: &'a dyn Hooks) -> Self {
        Self { offsets, kept: None, rotary: BTreeMap::new(), ops, hooks }
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

/// The hooks of a batch without forks, of which only the first token of each text is computed from a point on.
pub(super) struct FirstTokens<'a> {
    point: Point,
    rows: Vec<u32>,
    offsets: Vec<usize>,
    hooks: &'a dyn Hooks,
}

impl<'a> FirstTokens<'a> {
    /// For texts at `offsets [B + 1]`.
    pub(super) fn new(point: Point, offsets: &[usize], hooks: &'a dyn Hooks) -> Self {
        let rows: Vec<u32> = offsets.windows(2).map(|span| span[0] as u32).collect();
        Self { point, offsets: (0..=rows.len()).collect(), rows, hooks }
    }
}

impl Hooks for FirstTokens<'_> {
    fn fork(&self, point: Point) -> Option<Fork<'_>> {
        (point == self.point).then_some(Fork { rows: &self.rows, offsets: &self.offsets })
    }

    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.hooks.parameter(name)
    }

    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.hooks.added(site)
    }

    fn groups(&self, layer: usize, tokens: usize) -> Vec<Range<usize>> {
        self.hooks.groups(layer, tokens)
    }

    fn group_delta(&self, site: Site, group: usize) -> Option<&Delta> {
        self.hooks.group_delta(site, group)
    }

    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        self.hooks.after(site, h)
    }

    fn dropout(&self, point: DropPoint) -> Option<Dropout> {
        self.hooks.dropout(point)
    }
}
