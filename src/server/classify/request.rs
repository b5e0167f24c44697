//! What a request asks, whatever the shape of its body was.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::engine::score::Function;
use crate::text::TruncationSide;

/// A text, or a pair of texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct Text {
    /// The text, or the first text of a pair.
    pub(super) text: String,
    /// The second text of a pair.
    #[serde(rename = "text_pair")]
    pub(super) pair: Option<String>,
}

impl Text {
    /// A text that has no second text.
    pub(super) fn single(text: String) -> Self {
        Self { text, pair: None }
    }

    /// The length of the text, or of both texts of a pair.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.pair.as_ref().map_or(0, String::len)
    }
}

/// A checked request. A parameter that the client left out is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClassifyRequest {
    /// The texts, at least one. Each text is asked of each adapter.
    pub(super) texts: Vec<Text>,
    pub(super) form: Form,
    pub(super) adapters: Adapters,
    pub(super) scoring: Scoring,
    /// Whether to truncate texts that are too long.
    pub(super) truncate: Option<bool>,
    /// The side at which texts that are too long lose tokens.
    pub(super) side: Option<TruncationSide>,
    /// The maximum number of tokens of a text.
    pub(super) max_length: Option<usize>,
}

/// How the texts were given. The answer has the same form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One text or pair, and no list. Its labels are a flat list.
    One,
    /// A list of texts, each with a list of labels.
    List,
}

/// The adapters that a request asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Adapters {
    /// These, at least one, and no name twice.
    Named(Vec<String>),
    /// The adapter named by the first label of the request's host, if there is such an adapter, and otherwise the default adapter.
    Implied {
        /// The label, if the host is a name.
        host: Option<String>,
    },
}

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scoring {
    /// The function that turns logits into scores; by default the adapter's own.
    pub(super) function: Option<Function>,
    /// The maximum number of labels for each text, at least 1.
    pub(super) top: usize,
}

impl Scoring {
    /// All labels, with this function.
    pub(super) fn all(function: Option<Function>) -> Self {
        Self { function, top: usize::MAX }
    }
}
