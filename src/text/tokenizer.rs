//! From a text, or a pair, to token ids, as `transformers`' fast tokenizers do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::tokenizer::{Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};
use tokenizers::utils::truncation::truncate_encodings;

use crate::text::Encoded;

/// A tokenizer that cannot be read, or a text that it cannot take.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// `tokenizer.json` or `tokenizer_config.json` is missing or malformed.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A text is too long and may not be cut.
    #[error("a text of {tokens} tokens is longer than {max_length}, and truncation is off")]
    TooLong {
        /// With special tokens.
        tokens: usize,
        /// The most that are allowed.
        max_length: usize,
    },
    /// A limit under which no text fits, or above what the base takes.
    #[error("max_length: expected {least} to {most}, found {found}")]
    Limit {
        /// Special tokens and one more.
        least: usize,
        /// What the base takes.
        most: usize,
        /// What was asked.
        found: usize,
    },
    /// The tokenizer knows a token that the base has no embedding of.
    #[error("token {token} of the text: expected one of the base's {words}")]
    Word {
        /// Its id.
        token: u32,
        /// Rows of the base's word table.
        words: usize,
    },
    /// An empty text, of a tokenizer that adds no special tokens: there is nothing to classify.
    #[error("the text has no tokens, and this base's tokenizer adds none")]
    Nothing,
    /// The tokenizer refused the text.
    #[error("the text could not be tokenised: {0}")]
    Text(String),
}

/// How long a text may be, and what happens to a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The most tokens with special tokens; `None` is what the base takes.
    pub max_length: Option<usize>,
    /// Whether longer texts are cut (a pair's longer text first) or refused.
    pub truncate: bool,
}

/// A base's tokenizer. Shared between threads; encoding changes nothing in it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    /// Rows of the base's word table.
    words: usize,
    /// The side that loses tokens.
    side: TruncationDirection,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    /// Some files say 1e30 for "no limit".
    model_max_length: Option<f64>,
    #[serde(default)]
    truncation_side: Side,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    #[default]
    Right,
    Left,
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json`. Truncation and padding that it carries are ignored: texts are cut by [`Limit`] and never
    /// padded. The longest text is the lesser of `model_max_length` in `tokenizer_config.json`, where that says one, and
    /// `positions`; ids are below `words`.
    ///
    /// # Errors
    /// A file that is missing or malformed, or a longest text without room for tokens.
    pub fn open(dir: &Path, positions: usize, words: usize) -> Result<Self, TokenizeError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(file(&path))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(file(&path))?;
        inner.with_padding(None).with_truncation(None).map_err(file(&path))?;
        let path = dir.join("tokenizer_config.json");
        let config = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(file(&path))?,
            Err(error) if error.kind() == ErrorKind::NotFound => TokenizerConfig::default(),
            Err(error) => return Err(file(&path)(error)),
        };
        // The conversion saturates: 1e30 becomes the largest integer.
        let stated = config.model_max_length.map_or(usize::MAX, |stated| stated as usize);
        let side = match config.truncation_side {
            Side::Right => TruncationDirection::Right,
            Side::Left => TruncationDirection::Left,
        };
        let tokenizer = Self { inner, max_length: positions.min(stated), words, side };
        match tokenizer.max_length > tokenizer.special(false) {
            true => Ok(tokenizer),
            false => Err(file(&path)(format!("model_max_length {} leaves no room", tokenizer.max_length))),
        }
    }

    /// The most tokens of a text, special tokens included.
    #[must_use]
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Token ids and segment ids of a text or a pair, with special tokens. What is too long is cut as `transformers` does by
    /// `longest_first`: of a pair, tokens of the longer text go first. An empty second
    /// text is one all the same, as in `transformers`' batches.
    ///
    /// # Errors
    /// A text too long where `limit` forbids to cut it, a limit that leaves no room, a token that the base does not know, or none.
    pub fn encode(&self, text: &str, pair: Option<&str>, limit: &Limit) -> Result<Encoded, TokenizeError> {
        let special = self.special(pair.is_some());
        let max_length = limit.max_length.unwrap_or(self.max_length);
        if max_length <= special || max_length > self.max_length {
            return Err(TokenizeError::Limit { least: special + 1, most: self.max_length, found: max_length });
        }
        let first = self.bare(text, 0)?;
        let second = pair.map(|pair| self.bare(pair, 1)).transpose()?;
        let tokens = first.len() + second.as_ref().map_or(0, Encoding::len) + special;
        let truncated = tokens > max_length;
        if truncated && !limit.truncate {
            return Err(TokenizeError::TooLong { tokens, max_length });
        }
        let whole = self.assemble(first, second, max_length - special).map_err(failed)?;
        if whole.is_empty() {
            return Err(TokenizeError::Nothing);
        }
        // One of them would fail every text of its batch.
        if let Some(&token) = whole.get_ids().iter().find(|&&token| token as usize >= self.words) {
            return Err(TokenizeError::Word { token, words: self.words });
        }
        Ok(Encoded { ids: whole.get_ids().to_vec(), type_ids: whole.get_type_ids().to_vec(), truncated })
    }

    /// How many special tokens a text, or a pair, gets.
    fn special(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// A text without special tokens, all in one segment.
    fn bare(&self, text: &str, segment: u32) -> Result<Encoding, TokenizeError> {
        let mut encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        encoding.set_type_ids(vec![segment; encoding.len()]);
        Ok(encoding)
    }

    /// Cuts to `room` tokens and adds the special ones.
    fn assemble(&self, first: Encoding, second: Option<Encoding>, room: usize) -> tokenizers::Result<Encoding> {
        let cut = TruncationParams {
            direction: self.side,
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (mut first, mut second) = truncate_encodings(first, second, &cut)?;
        // What was cut off would be post-processed as well, each piece of one text with each of the other.
        first.take_overflowing();
        second.as_mut().map(Encoding::take_overflowing);
        self.inner.post_process(first, second, true)
    }
}

fn file<E: ToString>(path: &Path) -> impl FnOnce(E) -> TokenizeError + '_ {
    |reason| TokenizeError::File { path: path.to_owned(), reason: reason.to_string() }
}

fn failed(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Text(error.to_string())
}
