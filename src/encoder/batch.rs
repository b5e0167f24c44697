//! Packed texts: the tokens of all texts end to end, without padding.

use crate::text::Encoded;

/// Several texts as one batch of `T` tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// Segment ids, `[T]`.
    pub type_ids: Vec<u32>,
    /// The first row of each text, then `T`: `[B + 1]`.
    pub offsets: Vec<usize>,
}

impl Packed {
    /// Packs `texts` in their order.
    #[must_use]
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a Encoded>) -> Self {
        let mut packed = Self { offsets: vec![0], ..Self::default() };
        for text in texts {
            packed.ids.extend_from_slice(&text.ids);
            packed.type_ids.extend_from_slice(&text.type_ids);
            packed.offsets.push(packed.ids.len());
        }
        packed
    }

    /// Number of texts, `B`.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens, `T`.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The number of tokens of the longest text.
    #[must_use]
    pub fn longest(&self) -> usize {
        crate::ops::longest(&self.offsets)
    }

    /// The position of each token in its own text, `[T]`.
    #[must_use]
    pub fn positions(&self) -> Vec<u32> {
        self.offsets.windows(2).flat_map(|span| 0..(span[1] - span[0]) as u32).collect()
    }

    /// The positions as RoBERTa counts them, `[T]`: each text starts at `padding + 1`, and a token whose id is `padding` gets the
    /// position `padding` (`create_position_ids_from_input_ids` of `transformers`).
    #[must_use]
    pub fn positions_after(&self, padding: u32) -> Vec<u32> {
        let mut positions = Vec::with_capacity(self.tokens());
        for span in self.offsets.windows(2) {
            let mut last = padding;
            positions.extend(self.ids[span[0]..span[1]].iter().map(|&id| {
                if id == padding {
                    return padding;
                }
                last += 1;
                last
            }));
        }
        positions
    }
}
