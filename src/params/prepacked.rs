//! A linear's weight, packed once for the products of the CPU, in one of three precisions. `cpu/packed` packs it and computes with it.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::Arc;

use clap::ValueEnum;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// Outputs of a panel: two of the widest vectors.
pub const COLUMNS: usize = 32;

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
    pub(crate) fn per_group(self) -> usize {
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
        bytemuck::try_cast_slice::<u8, u32>(bytes).is_ok().then(|| Self(Place::Mapped(map, start, len)))
    }

    fn slice(&self) -> &[u32] {
        match &self.0 {
            Place::Held(words) => words,
            Place::Mapped(map, start, len) => bytemuck::cast_slice(&map[*start..*start + *len * size_of::<u32>()]),
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
    /// A weight `[out, width]` whose packed words are `words`, held in memory.
    ///
    /// # Panics
    /// If they are not as many as it has: a caller's bug.
    pub(crate) fn held(words: Vec<u32>, out: usize, width: usize, precision: Precision) -> Self {
        assert_eq!(words.len(), Self::len(out, width, precision), "prepacked: words of [{out}, {width}]");
        Self { precision, out, width, words: Words(Place::Held(words.into())) }
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

    /// Groups of 32 bits along `in`.
    pub(crate) fn groups(&self) -> usize {
        self.width.div_ceil(self.precision.per_group())
    }

    /// Number of outputs.
    pub(crate) fn out(&self) -> usize {
        self.out
    }

    /// Width of the input.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_another_length_are_refused() {
        let words: Arc<[u32]> = vec![0; Prepacked::len(3, 4, Precision::Bf16)].into();
        let of = |out, width, precision| {
            Prepacked::from_words(Words(Place::Held(Arc::clone(&words))), out, width, precision).is_some()
        };
        assert!(of(3, 4, Precision::Bf16));
        for (out, width, precision) in [(3, 5, Precision::Bf16), (33, 4, Precision::Bf16), (3, 4, Precision::Int8)] {
            assert!(!of(out, width, precision));
        }
    }
}
