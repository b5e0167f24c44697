//! Turns a text or a pair into token ids, as the fast tokenizers of `transformers` do.

mod beginning;
mod class;
mod side;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::tokenizer::{Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};
use tokenizers::utils::truncation::truncate_encodings;

use beginning::Cuts;
pub(crate) use class::{AS_IT_IS, Class, Rules, template};
use side::SpecialTokens;
pub(crate) use side::{FILES as SIDE_FILES, Side, Token};

use crate::panics;
use crate::text::Encoded;

/// A tokenizer that cannot be read, or a text that cannot be tokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// A file of the tokenizer is missing or malformed.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of the tokenizer uses a feature that is not supported.
    #[error("{path}: {key}: expected {expected}, found {found}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, or the part of `tokenizer.json`.
        key: String,
        /// The value that is supported.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A text is too long and must not be truncated.
    #[error("a text of {tokens} tokens is longer than {max_length}, and truncation is off")]
    TooLong {
        /// The text's number of tokens, including special tokens.
        tokens: usize,
        /// The maximum number of tokens.
        max_length: usize,
    },
    /// A limit that is too small for any text, or larger than the base allows.
    #[error("max_length: expected {least} to {most}, found {found}")]
    Limit {
        /// The number of special tokens, plus one.
        least: usize,
        /// The longest text that the base allows.
        most: usize,
        /// The requested limit.
        found: usize,
    },
    /// The tokenizer produced a token for which the base has no embedding.
    #[error("token {content:?} of the text has the id {token}: expected one of the base's {words}")]
    Word {
        /// The token.
        content: String,
        /// The token's id.
        token: u32,
        /// The number of rows of the base's word embeddings.
        words: usize,
    },
    /// The tokenizer put a token into a segment for which the base has no embedding.
    #[error("a token of the text is in the segment {segment}: expected one of the base's {segments}")]
    Segment {
        /// The token's segment.
        segment: u32,
        /// The number of rows of the base's embeddings of segments.
        segments: usize,
    },
    /// The text is empty and the tokenizer adds no special tokens, so that there is nothing to classify.
    #[error("the text has no tokens, and this base's tokenizer adds none")]
    Nothing,
    /// The tokenizer failed on the text.
    #[error("the text could not be tokenized: {0}")]
    Text(String),
}

/// How long a text may be, and whether a longer text is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The maximum number of tokens, including special tokens; `None` is [`Tokenizer::max_length`].
    pub max_length: Option<usize>,
    /// Whether longer texts are truncated (the longer text of a pair first) or refused.
    pub truncate: bool,
    /// The side at which tokens are removed; `None` is the base's `truncation_side`.
    pub side: Option<TruncationSide>,
}

impl Limit {
    /// The base's own limit and side. Longer texts are truncated.
    pub const TRUNCATE: Self = Self { max_length: None, truncate: true, side: None };
}

/// The side of a text at which tokens are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruncationSide {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

impl From<TruncationSide> for TruncationDirection {
    fn from(side: TruncationSide) -> Self {
        match side {
            TruncationSide::Left => Self::Left,
            TruncationSide::Right => Self::Right,
        }
    }
}

/// A base's tokenizer. Threads share it, because encoding does not change it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    longest: usize,
    /// The number of rows of the base's word embeddings.
    words: usize,
    /// As in [`BaseInputs`].
    segments: Option<usize>,
    /// The side at which texts are truncated if a [`Limit`] names none.
    side: TruncationSide,
    /// Where a text may be cut so that the tokens of its beginning are its first tokens.
    cuts: Cuts,
    /// Whether the model gets the tokenizer's type ids. Otherwise they are all 0.
    typed: bool,
}

/// What a tokenizer needs to know about its base.
#[derive(Debug, Clone, Copy)]
pub struct BaseInputs<'a> {
    /// The class of the base's architecture, which counts if no file names one. If it uses `tokenizer.json` as it is, no file is asked.
    pub own_class: &'static str,
    /// The class that the base's configuration names.
    pub tokenizer_class: Option<&'a str>,
    /// The number of tokens for which the base was made, which bounds a text unless a [`Limit`] says more.
    pub positions: usize,
    /// The largest number of tokens of a text, whatever a [`Limit`] says.
    pub longest: usize,
    /// The number of rows of the word embeddings. Token ids must be below it.
    pub words: usize,
    /// The number of rows of the embeddings of segments, below which segments must be; `None` if there are none, or one row, which all
    /// segments share.
    pub segments: Option<usize>,
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json` and the files beside it, and builds the same tokenizer as `transformers`. It includes the tokens that
    /// the other files add, and the parts that the tokenizer's class makes from `tokenizer_config.json`. The files' padding and
    /// truncation length are ignored: [`Limit`] truncates texts, and texts are never padded. [`Self::max_length`] is the smaller of
    /// `model_max_length` in `tokenizer_config.json`, if given, and the base's positions.
    ///
    /// # Errors
    /// A file is missing or malformed, a text cannot be encoded with it, the tokenizer's class is not supported, or `model_max_length`
    /// leaves no room for tokens.
    pub fn open(dir: &Path, base: &BaseInputs) -> Result<Self, TokenizeError> {
        let read = || {
            let tokenizer = Self::read(dir, base)?;
            tokenizer.try_out(dir)?;
            Ok(tokenizer)
        };
        // The crate panics on some malformed files.
        std::panic::catch_unwind(read).unwrap_or_else(|panic| {
            let reason = format!("malformed: {}", panics::message(&*panic));
            Err(file(&dir.join("tokenizer.json"))(reason))
        })
    }

    /// Encodes a text and a pair. Some mistakes in a file, such as a template with an unknown token, show only then. Otherwise they would
    /// fail each request.
    fn try_out(&self, dir: &Path) -> Result<(), TokenizeError> {
        for pair in [None, Some("b")] {
            let limit = Limit::TRUNCATE;
            // Other errors are no mistakes of the file: the base may be too short for a pair, or have no token for these letters.
            if let Err(TokenizeError::Text(reason)) = self.encode("a", pair, &limit) {
                return Err(file(&dir.join("tokenizer.json"))(reason));
            }
        }
        Ok(())
    }

    fn read(dir: &Path, base: &BaseInputs) -> Result<Self, TokenizeError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(file(&path))?;
        let mut whole: Value = serde_json::from_slice(&bytes).map_err(file(&path))?;
        if !whole.is_object() {
            return Err(file(&path)("expected an object"));
        }
        let side = Side::read(dir, whole.get("added_tokens"))?;
        let class = Class::of(&side, base)?;
        let cut = whole["truncation"]["direction"].as_str().map(str::to_lowercase);
        let defaults = class.defaults(&whole);
        class.apply(&mut whole, &side)?;
        for key in ["truncation", "padding"] {
            whole[key] = Value::Null;
        }
        let cuts = Cuts::of(&whole);
        let mut inner: tokenizers::Tokenizer = serde_json::from_value(whole).map_err(file(&path))?;
        let there: HashSet<String> = inner.get_added_vocabulary().get_vocab().keys().cloned().collect();
        let special = SpecialTokens { defaults: &defaults, flags: &|key, token| class.flags(key, token) };
        inner.add_tokens(side.to_add(&there, &special)?).map_err(file(side.path()))?;
        if let Some(frame) = class.frame(&side, |token| inner.token_to_id(token))? {
            inner.with_post_processor(Some(frame));
        }
        let cuts = cuts.outside_added(&inner);
        inner.set_encode_special_tokens(side.get("split_special_tokens")?.unwrap_or(false));
        for (token, id) in inner.get_added_vocabulary().get_vocab().iter().filter(|(_, id)| **id as usize >= base.words)
        {
            tracing::warn!(token, id, words = base.words, "the base has no embedding of an added token");
        }
        // Some files give 1e30 for "no limit", which saturates to the largest integer here.
        let stated = side.get::<f64>("model_max_length")?.or(side.get::<f64>("max_len")?);
        let stated = stated.map_or(usize::MAX, |stated| stated as usize);
        let tokenizer = Self {
            inner,
            max_length: base.positions.min(stated),
            longest: base.longest,
            words: base.words,
            segments: base.segments,
            side: truncation_side(&side, cut)?,
            cuts,
            typed: class.gives_types(&side)?,
        };
        if tokenizer.max_length <= tokenizer.special(false) {
            return Err(if stated < base.positions {
                file(side.path())(format!("model_max_length {stated} leaves no room for tokens of a text"))
            } else {
                let positions = base.positions;
                let reason = format!("the base's positions, {positions}, leave no room for tokens of a text");
                file(&path.with_file_name("config.json"))(reason)
            });
        }
        Ok(tokenizer)
    }

    /// The maximum number of tokens of a text, including special tokens, if a [`Limit`] gives none.
    #[must_use]
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Tokenizes a text or a pair into token ids and segment ids, including special tokens. A text that is too long is truncated as by
    /// `longest_first` in `transformers`: tokens are first removed from the longer text of a pair. An empty second text still makes a
    /// pair, as in batches of `transformers`.
    ///
    /// # Errors
    /// The text is too long and `limit` forbids truncation, `limit` leaves no room for tokens, the base has no embedding for a token, or
    /// there are no tokens.
    pub fn encode(&self, text: &str, pair: Option<&str>, limit: &Limit) -> Result<Encoded, TokenizeError> {
        let special = self.special(pair.is_some());
        let max_length = limit.max_length.unwrap_or(self.max_length);
        if max_length <= special || max_length > self.longest {
            return Err(TokenizeError::Limit { least: special + 1, most: self.longest, found: max_length });
        }
        let side = limit.side.unwrap_or(self.side);
        let (first, second) =
            self.texts(text, pair, limit.truncate && side == TruncationSide::Right, max_length - special)?;
        let tokens = first.len() + second.as_ref().map_or(0, Encoding::len) + special;
        let truncated = tokens > max_length;
        if truncated && !limit.truncate {
            return Err(TokenizeError::TooLong { tokens, max_length });
        }
        let cut = TruncationParams {
            direction: side.into(),
            max_length: max_length - special,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let whole = self.assemble(first, second, &cut).map_err(failed)?;
        if whole.is_empty() {
            return Err(TokenizeError::Nothing);
        }
        // Such tokens would make the forward pass of the whole batch fail.
        if let Some(&token) = whole.get_ids().iter().find(|&&token| token as usize >= self.words) {
            let content = self.inner.id_to_token(token).unwrap_or_default();
            return Err(TokenizeError::Word { content, token, words: self.words });
        }
        let type_ids = if self.typed { whole.get_type_ids().to_vec() } else { vec![0; whole.len()] };
        if let Some(segments) = self.segments
            && let Some(&segment) = type_ids.iter().find(|&&segment| segment as usize >= segments)
        {
            return Err(TokenizeError::Segment { segment, segments });
        }
        Ok(Encoded { ids: whole.get_ids().to_vec(), type_ids, truncated })
    }

    /// How many special tokens a text or a pair gets.
    fn special(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Tokenizes a text and a pair without special tokens. If `cuts`, the caller truncates them on the right to `room` tokens next, and a
    /// text with more than `room` tokens may lack its end here.
    fn texts(
        &self,
        text: &str,
        pair: Option<&str>,
        cuts: bool,
        room: usize,
    ) -> Result<(Encoding, Option<Encoding>), TokenizeError> {
        let enough = if cuts && self.cuts != Cuts::NONE { room } else { usize::MAX };
        let both = |enough| -> Result<_, TokenizeError> {
            Ok((self.bare(text, 0, enough)?, pair.map(|pair| self.bare(pair, 1, enough)).transpose()?))
        };
        let (first, second) = both(enough)?;
        // Of two long texts, the longer one keeps the odd token.
        if room % 2 == 1 && first.len() > enough && second.as_ref().is_some_and(|second| second.len() > enough) {
            return both(usize::MAX);
        }
        Ok((first, second))
    }

    /// Tokenizes a text without special tokens, all in one segment. May stop after more than `enough` tokens.
    fn bare(&self, text: &str, segment: u32, enough: usize) -> Result<Encoding, TokenizeError> {
        let mut found = Encoding::default();
        for beginning in beginning::beginnings(text, enough, self.cuts) {
            found = self.inner.encode_fast(beginning, false).map_err(failed)?;
            if found.len() > enough {
                break;
            }
        }
        found.set_type_ids(vec![segment; found.len()]);
        Ok(found)
    }

    /// Truncates the texts and adds the special tokens.
    fn assemble(
        &self,
        first: Encoding,
        second: Option<Encoding>,
        cut: &TruncationParams,
    ) -> tokenizers::Result<Encoding> {
        let (mut first, mut second) = truncate_encodings(first, second, cut)?;
        // Otherwise the removed tokens would be post-processed as well, each piece of one text with each piece of the other.
        first.take_overflowing();
        second.as_mut().map(Encoding::take_overflowing);
        self.inner.post_process(first, second, true)
    }
}

/// The side at which texts are truncated, which `tokenizer.json` has as `own`.
fn truncation_side(side: &Side, own: Option<String>) -> Result<TruncationSide, TokenizeError> {
    match side.get::<String>("truncation_side")?.or(own).as_deref() {
        None | Some("right") => Ok(TruncationSide::Right),
        Some("left") => Ok(TruncationSide::Left),
        Some(other) => Err(file(side.path())(format!("truncation_side: expected left or right, found {other}"))),
    }
}

fn file<E: ToString>(path: &Path) -> impl FnOnce(E) -> TokenizeError + '_ {
    |reason| TokenizeError::File { path: path.to_owned(), reason: reason.to_string() }
}

fn failed(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Text(error.to_string())
}
