//! A tokenized text.

/// A tokenized text, or a pair of texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, including special tokens, `[t]`.
    pub ids: Vec<u32>,
    /// The segment of each token: 0, or 1 in the second text of a pair, `[t]`.
    pub type_ids: Vec<u32>,
    /// Whether the text was truncated.
    pub truncated: bool,
}
