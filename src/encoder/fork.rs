//! Where texts part: rows that several adapters shared become a row for each.

use candle_core::{Result, Tensor};

use super::{Point, Seam};

/// The rows after a point at which some of them part.
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
    /// What is needed later than the layer at hand, and parts along with it: `[T, n]`.
    pub(super) kept: Option<Tensor>,
    seam: &'a dyn Seam,
}

impl<'a> Texts<'a> {
    pub(super) fn new(offsets: &'a [usize], seam: &'a dyn Seam) -> Self {
        Self { offsets, kept: None, seam }
    }

    /// Asks the seam whether rows part at `input` of `layer`, and has every tensor of `live` part with them, all `[T, n]`.
    /// Nothing is copied where none do.
    pub(super) fn part<const N: usize>(&mut self, layer: usize, input: usize, live: [&mut Tensor; N]) -> Result<()> {
        let Some(Fork { rows, offsets }) = self.seam.fork(Point { layer, input }) else { return Ok(()) };
        let mut live = live.into_iter().chain(&mut self.kept).peekable();
        if let Some(first) = live.peek() {
            let rows = Tensor::new(rows, first.device())?;
            for tensor in live {
                *tensor = tensor.index_select(&rows, 0)?;
            }
        }
        self.offsets = offsets;
        Ok(())
    }
}
