//! A linear's weight, packed once for the CPU's matrix products, in one of three precisions. `cpu/packed` packs weights and
//! multiplies with them.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::Arc;

use clap::ValueEnum;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// The number of outputs in a panel: two of the widest vectors.
pub const COLUMNS: usize = 32;

/// The precision of the base's matrix products. On the CPU, deltas, norms and heads are f32 in all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Nothing is rounded.
    #[default]
    F32,
    /// Weights and activations are rounded to bf16; sums are f32.
    Bf16,
    /// Weights are rounded to 8 bits with one scale for each output, activations with one scale for each token; sums are i32.
    Int8,
}

impl Precision {
    /// The name on command lines and in responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The number of elements in a 32-bit word.
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
pub struct Words(Storage);

#[derive(Clone)]
enum Storage {
    /// In this process's own memory.
    Owned(Arc<[u32]>),
    /// In a mapping: the offset of the first byte, and the number of words. Only [`Words::mapped`] makes this variant.
    Mapped(Arc<Mmap>, usize, usize),
}

impl Words {
    /// `len` words of `map` that begin at byte `start`; `None` if they lie outside the mapping or are misaligned.
    #[must_use]
    pub fn mapped(map: Arc<Mmap>, start: usize, len: usize) -> Option<Self> {
        let bytes = map.get(start..start.checked_add(len.checked_mul(size_of::<u32>())?)?)?;
        bytemuck::try_cast_slice::<u8, u32>(bytes).is_ok().then(|| Self(Storage::Mapped(map, start, len)))
    }

    fn slice(&self) -> &[u32] {
        match &self.0 {
            Storage::Owned(words) => words,
            Storage::Mapped(map, start, len) => bytemuck::cast_slice(&map[*start..*start + *len * size_of::<u32>()]),
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
    /// A weight `[out, width]` whose packed words are `words`, in memory.
    ///
    /// # Panics
    /// If the number of words does not fit the shape: a caller's bug.
    pub(crate) fn owned(words: Vec<u32>, out: usize, width: usize, precision: Precision) -> Self {
        assert_eq!(words.len(), Self::len(out, width, precision), "prepacked: words of [{out}, {width}]");
        Self { precision, out, width, words: Words(Storage::Owned(words.into())) }
    }

    /// A weight `[out, width]` that was packed earlier; `None` if the number of `words` does not fit the shape.
    #[must_use]
    pub fn from_words(words: Words, out: usize, width: usize, precision: Precision) -> Option<Self> {
        (words.slice().len() == Self::len(out, width, precision)).then_some(Self { precision, out, width, words })
    }

    /// The number of words of a packed weight `[out, width]`: its panels, and for int8 also a scale and a sum for each column.
    pub(crate) fn len(out: usize, width: usize, precision: Precision) -> usize {
        let columns = out.next_multiple_of(COLUMNS);
        let extra = if precision == Precision::Int8 { 2 } else { 0 };
        columns * (width.div_ceil(precision.per_group()) + extra)
    }

    /// The precision of the weight's products.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The weight's shape, `[out, in]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        [self.out, self.width]
    }

    /// All packed words, as [`Prepacked::from_words`] takes them.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        self.words.slice()
    }

    /// The number of 32-bit groups along `in`.
    pub(crate) fn groups(&self) -> usize {
        self.width.div_ceil(self.precision.per_group())
    }

    /// The number of outputs.
    pub(crate) fn out(&self) -> usize {
        self.out
    }

    /// The width of the input.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_words_rejects_the_wrong_number_of_words() {
        let words: Arc<[u32]> = vec![0; Prepacked::len(3, 4, Precision::Bf16)].into();
        let of = |out, width, precision| {
            Prepacked::from_words(Words(Storage::Owned(Arc::clone(&words))), out, width, precision).is_some()
        };
        assert!(of(3, 4, Precision::Bf16));
        for (out, width, precision) in [(3, 5, Precision::Bf16), (33, 4, Precision::Bf16), (3, 4, Precision::Int8)] {
            assert!(!of(out, width, precision));
        }
    }
}
