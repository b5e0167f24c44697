//! What relative positions add to scores, packed so that a tile reads it as whole vectors.

use super::tile::{ROWS, WIDEST, spaced};

/// The number of elements after the last column of packed positions: a tile reads whole vectors, some of which reach past the end.
const SLACK: usize = ROWS + WIDEST;

/// What relative positions add to the scores of a text. Each row is [`packed_row`] long.
#[derive(Clone, Copy, Default)]
pub(in crate::ops) struct Positions<'a> {
    /// What query i adds to its score with key j, in column `j - i + middle`.
    pub(in crate::ops) keys: Option<Keys<'a>>,
    /// What key j adds to its score with query i, in column `i - j + middle`: position queries packed by [`pack`].
    pub(in crate::ops) queries: Option<&'a [f32]>,
    /// The column of distance 0.
    pub(in crate::ops) middle: usize,
}

/// What a query adds to its scores, by the key's relative position.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Keys<'a> {
    /// The query's products with position keys, which are packed by [`pack`]: `[heads, size, packed_row(middle)]`. The scale
    /// applies to them.
    Products(&'a [f32]),
    /// A bias that is the same for every query, `[heads, packed_row(middle)]`. The scale does not apply to it.
    Bias(&'a [f32]),
}

impl<'a> Keys<'a> {
    /// The positions of one head of `size` columns.
    pub(super) fn head(self, head: usize, size: usize, middle: usize) -> Self {
        let part =
            |data: &'a [f32], rows: usize| &data[head * rows * packed_row(middle)..][..rows * packed_row(middle)];
        match self {
            Self::Products(keys) => Self::Products(part(keys, size)),
            Self::Bias(bias) => Self::Bias(part(bias, 1)),
        }
    }
}

/// The number of columns of packed positions for distances from `-middle` to `middle`, with the slack.
pub(in crate::ops) fn packed_row(middle: usize) -> usize {
    spaced(2 * middle + 1 + SLACK)
}

/// Packs one head's positions for [`Positions`] by transposing them: column m of `packed [size, packed_row(middle)]` becomes the
/// row `row_of(m)`.
pub(in crate::ops) fn pack<'a>(packed: &mut [f32], middle: usize, row_of: impl Fn(usize) -> &'a [f32]) {
    let width = packed_row(middle);
    for m in 0..=2 * middle {
        for (packed, value) in packed.chunks_exact_mut(width).zip(row_of(m)) {
            packed[m] = *value;
        }
    }
}
