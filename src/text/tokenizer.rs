//! From a text, or a pair, to token ids, as `transformers`' fast tokenizers do.

mod class;
mod side;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::tokenizer::{Encoding, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};
use tokenizers::utils::truncation::truncate_encodings;

use class::Class;
pub(crate) use class::template;
use side::SpecialTokens;
pub(crate) use side::{FILES as SIDE_FILES, Side, Token};

use crate::text::Encoded;

/// A tokenizer that cannot be read, or a text that it cannot take.
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
    /// A file of the tokenizer asks for what is not served.
    #[error("{path}: {key}: expected {expected}, found {found}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key, or the part of `tokenizer.json`.
        key: String,
        /// What would be served.
        expected: String,
        /// What it says.
        found: String,
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
    #[error("token {content:?} of the text has the id {token}: expected one of the base's {words}")]
    Word {
        /// The token.
        content: String,
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
    /// Whether the model is given type ids; zeros otherwise.
    typed: bool,
}

/// What a tokenizer is to know of its base.
#[derive(Debug, Clone, Copy)]
pub struct BaseInputs<'a> {
    /// The architecture, which decides the tokenizer's class where no file names one.
    pub model_type: &'a str,
    /// The class that the base's configuration names.
    pub tokenizer_class: Option<&'a str>,
    /// The most tokens of a text.
    pub positions: usize,
    /// Rows of the word table: ids are below.
    pub words: usize,
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json` and the files beside it, and makes of them what `transformers` makes: tokens that other files add,
    /// and the parts that the tokenizer's class makes by `tokenizer_config.json`. Padding, and the length of a truncation, are
    /// ignored: texts are cut by [`Limit`] and never padded. The longest text is the lesser of `model_max_length` in
    /// `tokenizer_config.json`, where that says one, and the base's.
    ///
    /// # Errors
    /// A file that is missing or malformed, a class that is not served, or a longest text without room for tokens.
    pub fn open(dir: &Path, base: &BaseInputs) -> Result<Self, TokenizeError> {
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
        let mut inner: tokenizers::Tokenizer = serde_json::from_value(whole).map_err(file(&path))?;
        let there: HashSet<String> = inner.get_added_vocabulary().get_vocab().keys().cloned().collect();
        let special = SpecialTokens { defaults: &defaults, flags: &|key, token| class.flags(key, token) };
        inner.add_tokens(side.to_add(&there, &special)?).map_err(file(side.path()))?;
        if let Some(frame) = class.frame(&side, |token| inner.token_to_id(token))? {
            inner.with_post_processor(Some(frame));
        }
        inner.set_encode_special_tokens(side.get("split_special_tokens")?.unwrap_or(false));
        for (token, id) in inner.get_added_vocabulary().get_vocab().iter().filter(|(_, id)| **id as usize >= base.words)
        {
            tracing::warn!(token, id, words = base.words, "the base has no embedding of an added token");
        }
        // Some files say 1e30 for "no limit". The conversion saturates: it becomes the largest integer.
        let stated = side.get::<f64>("model_max_length")?.or(side.get::<f64>("max_len")?);
        let stated = stated.map_or(usize::MAX, |stated| stated as usize);
        let cut = side.get::<String>("truncation_side")?.or(cut);
        let settings = side.path();
        let tokenizer = Self {
            inner,
            max_length: base.positions.min(stated),
            words: base.words,
            side: match cut.as_deref() {
                None | Some("right") => TruncationDirection::Right,
                Some("left") => TruncationDirection::Left,
                Some(other) => {
                    return Err(file(settings)(format!("truncation_side: expected left or right, found {other}")));
                }
            },
            typed: class.gives_types(&side)?,
        };
        match tokenizer.max_length > tokenizer.special(false) {
            true => Ok(tokenizer),
            false => Err(file(settings)(format!("model_max_length {} leaves no room", tokenizer.max_length))),
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
            let content = self.inner.id_to_token(token).unwrap_or_default();
            return Err(TokenizeError::Word { content, token, words: self.words });
        }
        let type_ids = if self.typed { whole.get_type_ids().to_vec() } else { vec![0; whole.len()] };
        Ok(Encoded { ids: whole.get_ids().to_vec(), type_ids, truncated })
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
