//! `y = x W^T + b` with a weight that was packed once for the machine's registers, in one of three precisions.
//!
//! A packed weight is a sequence of *panels*, each of [`COLUMNS`] outputs. A panel stores its weights in *groups* along `in`. A
//! group is 32 bits for each column: one f32, two bf16 or four i8. All precisions therefore run the same loop: broadcast a group of
//! `x`, multiply it by the group of each column, add the result to the column's sum. A GEMM packs both operands at every call; here
//! `x` is read in place, and `W` was packed when the base was opened.
//!
//! | file | idea |
//! | --- | --- |
//! | `pack.rs` | packs `W [out, in]` into panels |
//! | `activations.rs` | converts `x [T, in]` to the form that a loop reads |
//! | `tile.rs`, `tile/x86.rs` | the loop, for each precision and each width of vectors |
//! | `stored.rs` | the same loop over a weight as it is stored, for the gradient of `x` |

mod activations;
mod pack;
mod stored;
mod tile;

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use self::activations::Activations;
pub(crate) use self::stored::times_stored;
use self::tile::{Output, Span, Tile};
use super::host;
use crate::params::{COLUMNS, Precision, Prepacked};

/// The largest number of rows that share one pass over the panels: their activations stay in a core's cache.
const BLOCK: usize = 256;

impl Prepacked {
    /// Packs `w [out, width]`.
    ///
    /// # Panics
    /// If `w` does not have `out * width` elements: a caller's bug.
    #[must_use]
    pub fn new(w: &[f32], out: usize, width: usize, precision: Precision) -> Self {
        assert_eq!(w.len(), out * width, "prepacked: expected [{out}, {width}]");
        Self::owned(pack::pack(w, out, width, precision), out, width, precision)
    }

    /// Returns `x W^T + b`, `[rows, out]`, for `x [rows, in]` and `b [out]`. A row's result does not depend on the other rows.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows, or `b` does not have `out` elements: a caller's bug.
    #[must_use]
    pub fn apply(&self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let rows = x.len() / self.width().max(1);
        assert!(rows * self.width() == x.len(), "prepacked: x of {} is not rows of {}", x.len(), self.width());
        assert!(bias.is_none_or(|bias| bias.len() == self.out()), "prepacked: expected a bias of {}", self.out());
        // SAFETY: `fill` writes every row and every panel of `room`.
        unsafe { host::written(rows * self.out(), |room| self.fill(room, x, bias)) }
    }

    /// Writes all of `y [rows, out]`.
    fn fill(&self, y: &mut [MaybeUninit<f32>], x: &[f32], bias: Option<&[f32]>) {
        let rows = x.len() / self.width().max(1);
        let output = Output { y: y.as_mut_ptr(), out: self.out() };
        let threads = rayon::current_num_threads();
        let panels = self.out().div_ceil(COLUMNS);
        let form = tile::form(self.precision());
        let activations = |span: &Range<usize>| {
            let x = &x[span.start * self.width()..span.end * self.width()];
            Activations::new(x, self.width(), self.precision(), form)
        };
        if threads > 1 && rows >= threads * BLOCK {
            (0..rows.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
                let span = block * BLOCK..rows.min((block + 1) * BLOCK);
                let x = activations(&span);
                // SAFETY: `y` has room for all rows, and each task has a different block of rows.
                unsafe { self.panels(&x, bias, Span { rows: span, panels: 0..panels }, output) };
            });
            return;
        }
        // Few rows: each thread takes a share of the panels and reads the same activations.
        let share =
            if threads > 1 && rows * self.out() * self.width() > 1 << 17 { panels.div_ceil(threads) } else { panels };
        for block in (0..rows).step_by(BLOCK) {
            let span = block..rows.min(block + BLOCK);
            let x = activations(&span);
            let run = |first: usize| {
                let panels = first..panels.min(first + share);
                // SAFETY: `y` has room for all rows, and each task has a different share of the panels.
                unsafe { self.panels(&x, bias, Span { rows: span.clone(), panels }, output) };
            };
            if share < panels {
                (0..panels.div_ceil(share)).into_par_iter().for_each(|i| run(i * share))
            } else {
                run(0)
            }
        }
    }

    /// Computes the elements of `span`; `x` holds the rows of the span.
    ///
    /// # Safety
    /// The same as for [`Tile::run`].
    unsafe fn panels(&self, x: &Activations, bias: Option<&[f32]>, span: Span, output: Output) {
        let words = self.words();
        let (panels, extra) = words.split_at(self.out().next_multiple_of(COLUMNS) * self.groups());
        let panels = &panels[span.panels.start * COLUMNS * self.groups()..];
        let (scales, sums) = extra.split_at(extra.len() / 2);
        let tile = Tile { precision: self.precision(), groups: self.groups(), scales, sums };
        let padded: Option<Cow<[f32]>> = bias.map(|bias| {
            if bias.len().is_multiple_of(COLUMNS) {
                Cow::Borrowed(bias)
            } else {
                let mut bias = bias.to_vec();
                bias.resize(self.out().next_multiple_of(COLUMNS), 0.0);
                Cow::Owned(bias)
            }
        });
        // SAFETY: the caller promises what `Tile::run` requires.
        unsafe { tile.run(panels, x, padded.as_deref(), span, output) };
    }
}

#[cfg(test)]
mod tests;
