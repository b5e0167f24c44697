//! `y = x W^T + b` over a weight that was packed once for the machine's registers, in one of three precisions.
//!
//! A packed weight is a row of *panels*, each of [`COLUMNS`] outputs. A panel holds its weights by *groups* along `in`: 32 bits a
//! column, which are one f32, two bf16 or four i8, so that all precisions run the same loop: splat a group of `x`, multiply by
//! the group of each column, add to the column's sum. A general product packs its operands at every call; here `x` is read
//! where it lies, and `W` was packed when the base was opened.
//!
//! | file | idea |
//! | --- | --- |
//! | `pack.rs` | from `W [out, in]` to panels |
//! | `activations.rs` | from `x [T, in]` to groups |
//! | `tile.rs` | the loop, for each precision and each width of vectors |

mod activations;
mod pack;
mod tile;

use std::borrow::Cow;
use std::fmt::{self, Debug, Display, Formatter};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use clap::ValueEnum;
use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::activations::Activations;
use self::tile::{Output, Span, Tile};
use super::host;

/// Outputs of a panel: two of the widest vectors.
pub const COLUMNS: usize = 32;

/// The most rows that share one pass over the panels: their activations stay in a core's cache.
const BLOCK: usize = 256;

/// What the base's products run in. Deltas, norms and heads are f32 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Exact.
    #[default]
    F32,
    /// Weights and activations rounded to bf16, sums in f32.
    Bf16,
    /// Weights to 8 bits by a scale for each output, activations by a scale for each token, sums in i32.
    Int8,
}

impl Precision {
    /// Its name on command lines and in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Elements in 32 bits.
    fn per_group(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}

impl Display for Precision {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bytes of a packed weight, read as 32-bit words.
#[derive(Clone)]
pub struct Words(Place);

#[derive(Clone)]
enum Place {
    /// In this process alone.
    Held(Arc<[u32]>),
    /// In a mapping: the byte at which they begin, and how many they are. Made by [`Words::mapped`] only.
    Mapped(Arc<Mmap>, usize, usize),
}

impl Words {
    /// `len` words of `map` from its byte `start`; `None` where they lie outside or are misaligned.
    #[must_use]
    pub fn mapped(map: Arc<Mmap>, start: usize, len: usize) -> Option<Self> {
        let bytes = map.get(start..start.checked_add(len.checked_mul(size_of::<u32>())?)?)?;
        let aligned = bytes.as_ptr().cast::<u32>().is_aligned() && start.is_multiple_of(size_of::<u32>());
        aligned.then(|| Self(Place::Mapped(map, start, len)))
    }

    fn slice(&self) -> &[u32] {
        match &self.0 {
            Place::Held(words) => words,
            Place::Mapped(map, start, len) => {
                let bytes = &map[*start..*start + *len * size_of::<u32>()];
                // SAFETY: `Words::mapped` promises alignment, the slice just taken promises its length, and any four bytes are
                // a u32. The mapping is read-only and lives as long as `self`.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), *len) }
            }
        }
    }
}

/// A weight `[out, in]`, packed.
#[derive(Clone)]
pub struct Prepacked {
    precision: Precision,
    out: usize,
    width: usize,
    words: Words,
}

impl Debug for Prepacked {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Prepacked({} [{}, {}])", self.precision, self.out, self.width)
    }
}

impl Prepacked {
    /// Packs `w [out, width]`.
    ///
    /// # Panics
    /// If `w` is not of `out * width` elements: a caller's bug.
    #[must_use]
    pub fn new(w: &[f32], out: usize, width: usize, precision: Precision) -> Self {
        assert_eq!(w.len(), out * width, "prepacked: expected [{out}, {width}]");
        Self { precision, out, width, words: Words(Place::Held(pack::pack(w, out, width, precision).into())) }
    }

    /// A weight `[out, width]` that was packed before; `None` where `words` are not as many as it has.
    #[must_use]
    pub fn from_words(words: Words, out: usize, width: usize, precision: Precision) -> Option<Self> {
        (words.slice().len() == Self::len(out, width, precision)).then_some(Self { precision, out, width, words })
    }

    /// Words of a packed weight `[out, width]`: its panels, and for int8 a scale and a sum for each column.
    pub(crate) fn len(out: usize, width: usize, precision: Precision) -> usize {
        let columns = out.next_multiple_of(COLUMNS);
        let extra = if precision == Precision::Int8 { 2 } else { 0 };
        columns * (width.div_ceil(precision.per_group()) + extra)
    }

    /// What its products run in.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// `[out, in]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        [self.out, self.width]
    }

    /// All of it, as [`Prepacked::from_words`] takes it.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        self.words.slice()
    }

    fn groups(&self) -> usize {
        self.width.div_ceil(self.precision.per_group())
    }

    /// `x W^T + b` for `x [rows, in]`, `b [out]`: `[rows, out]`. A row's result does not depend on the others.
    ///
    /// # Panics
    /// If `x` is not of whole rows, or `b` not of `out`: a caller's bug.
    #[must_use]
    pub fn apply(&self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let rows = x.len() / self.width.max(1);
        assert!(rows * self.width == x.len(), "prepacked: x of {} is not rows of {}", x.len(), self.width);
        assert!(bias.is_none_or(|bias| bias.len() == self.out), "prepacked: expected a bias of {}", self.out);
        // SAFETY: `fill` writes every row and every panel of the room.
        unsafe { host::written(rows * self.out, |room| self.fill(room, x, bias)) }
    }

    /// All of `y [rows, out]`.
    fn fill(&self, y: &mut [MaybeUninit<f32>], x: &[f32], bias: Option<&[f32]>) {
        let rows = x.len() / self.width.max(1);
        let output = Output { y: y.as_mut_ptr(), out: self.out };
        let threads = rayon::current_num_threads();
        let panels = self.out.div_ceil(COLUMNS);
        let activations = |span: &Range<usize>| {
            Activations::new(&x[span.start * self.width..span.end * self.width], self.width, self.precision)
        };
        if threads > 1 && rows >= threads * BLOCK {
            (0..rows.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
                let span = block * BLOCK..rows.min((block + 1) * BLOCK);
                let x = activations(&span);
                // SAFETY: `y` has room for all rows, and each block is another task's.
                unsafe { self.panels(&x, bias, Span { rows: span, panels: 0..panels }, output) };
            });
            return;
        }
        // Few rows: each thread has its share of the panels, and all of them the same activations.
        let share =
            if threads > 1 && rows * self.out * self.width > 1 << 17 { panels.div_ceil(threads) } else { panels };
        for block in (0..rows).step_by(BLOCK) {
            let span = block..rows.min(block + BLOCK);
            let x = activations(&span);
            let run = |first: usize| {
                let panels = first..panels.min(first + share);
                // SAFETY: `y` has room for all rows, and each share of the panels is another task's.
                unsafe { self.panels(&x, bias, Span { rows: span.clone(), panels }, output) };
            };
            match share < panels {
                true => (0..panels.div_ceil(share)).into_par_iter().for_each(|i| run(i * share)),
                false => run(0),
            }
        }
    }

    /// The elements of `span`, whose rows `x` holds.
    ///
    /// # Safety
    /// As [`Tile::run`].
    unsafe fn panels(&self, x: &Activations, bias: Option<&[f32]>, span: Span, output: Output) {
        let words = self.words.slice();
        let (panels, extra) = words.split_at(self.out.next_multiple_of(COLUMNS) * self.groups());
        let (scales, sums) = extra.split_at(extra.len() / 2);
        let tile = Tile { precision: self.precision, groups: self.groups(), scales, sums };
        let padded: Option<Cow<[f32]>> = bias.map(|bias| match bias.len().is_multiple_of(COLUMNS) {
            true => Cow::Borrowed(bias),
            false => {
                let mut bias = bias.to_vec();
                bias.resize(self.out.next_multiple_of(COLUMNS), 0.0);
                Cow::Owned(bias)
            }
        });
        // SAFETY: the caller's promise.
        unsafe { tile.run(panels, x, padded.as_deref(), span, output) };
    }
}

#[cfg(test)]
mod tests;
