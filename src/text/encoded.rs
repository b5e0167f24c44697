//! One text as token ids.

/// One tokenized text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids with special tokens, `[t]`.
    pub ids: Vec<u32>,
    /// Segment of each token (0, or 1 in the second text of a pair), `[t]`.
    pub type_ids: Vec<u32>,
    /// Whether tokens were cut off to fit.
    pub truncated: bool,
}
