//! Reads the files beside `tokenizer.json` and merges them as `transformers` does: `tokenizer_config.json`, `special_tokens_map.json` and
//! `added_tokens.json`.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{TokenizeError, file};

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The names of the special tokens that every tokenizer may have, in the order in which `transformers` adds them.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// The key of the special tokens without a name.
const EXTRA: &str = "extra_special_tokens";
/// The former name of `extra_special_tokens`.
const ADDITIONAL: &str = "additional_special_tokens";
/// The key of all added tokens by id. If it exists, the older files are not read.
const DECODER: &str = "added_tokens_decoder";

/// The files that are read here.
pub(crate) const FILES: [&str; 3] = [CONFIG, SPECIAL, ADDED];

/// The content of the files beside a `tokenizer.json`.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// `tokenizer_config.json`, for errors.
    path: PathBuf,
    /// The keys of `tokenizer_config.json`, overridden by those of `special_tokens_map.json`.
    keys: Map<String, Value>,
    /// Special tokens under the tokenizer's own names, if `extra_special_tokens` is a map.
    own: Map<String, Value>,
    /// The tokens to add, by the ids under which they are listed. They are added in this order, and may get other ids.
    added: BTreeMap<u32, AddedToken>,
}

/// What a tokenizer's class defines about special tokens.
pub(super) struct SpecialTokens<'a> {
    /// The default tokens by key, for keys that the files do not have.
    pub(super) defaults: &'a [(&'static str, Token)],
    /// Adds the flags that the class gives to the token of a key.
    pub(super) flags: &'a dyn Fn(&str, Token) -> Token,
}

/// The token of a key: a bare string, or a string with flags.
#[derive(Debug, Clone)]
pub(crate) enum Token {
    Bare(String),
    Flagged(AddedToken),
}

impl Token {
    pub(crate) fn content(&self) -> &str {
        match self {
            Self::Bare(content) => content,
            Self::Flagged(token) => &token.content,
        }
    }

    fn flagged(self) -> AddedToken {
        match self {
            Self::Bare(content) => AddedToken::from(content, true),
            Self::Flagged(token) => token,
        }
    }
}

/// A token's JSON form. Missing flags get the defaults of `tokenizers`.
#[derive(Deserialize)]
struct Flags {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl From<Flags> for AddedToken {
    fn from(Flags { content, single_word, lstrip, rstrip, normalized, special }: Flags) -> Self {
        Self { content, single_word, lstrip, rstrip, normalized: normalized.unwrap_or(!special), special }
    }
}

impl Side {
    /// Reads the files in `dir`; each may be missing. `listed` are the `added_tokens` of `tokenizer.json`.
    ///
    /// # Errors
    /// A file is malformed; the error names the key.
    pub(crate) fn read(dir: &Path, listed: Option<&Value>) -> Result<Self, TokenizeError> {
        let keys = object(&dir.join(CONFIG))?.unwrap_or_default();
        let mut side = Self { path: dir.join(CONFIG), keys, ..Self::default() };
        let empty = |value: &Value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            other => other.is_null(),
        };
        if side.keys.get(EXTRA).is_some_and(empty) && side.keys.contains_key(ADDITIONAL) {
            side.keys.remove(EXTRA);
        }
        side.rename_additional();
        side.move_own();
        match side.get::<Map<String, Value>>(DECODER)? {
            Some(decoder) => {
                let path = side.path.clone();
                for (id, value) in &decoder {
                    let key = format!("{DECODER}: {id}");
                    let number = id.parse().map_err(|error| file(&path)(format!("{key}: {error}")))?;
                    side.added.insert(number, flags(&path, &key, value)?);
                }
            }
            None => side.read_older_files(dir, listed)?,
        }
        side.rename_additional();
        Ok(side)
    }

    /// Reads the files of releases that did not have `added_tokens_decoder` yet.
    fn read_older_files(&mut self, dir: &Path, listed: Option<&Value>) -> Result<(), TokenizeError> {
        let path = dir.join(SPECIAL);
        for (key, value) in object(&path)?.unwrap_or_default() {
            let value = match value {
                Value::Array(more) if key == EXTRA => {
                    let mut all = self.keys.get(EXTRA).and_then(Value::as_array).cloned().unwrap_or_default();
                    all.extend(more.into_iter().filter(|token| !all.contains(token)).collect::<Vec<_>>());
                    Value::Array(all)
                }
                // All tokens in this file are special.
                Value::Object(mut token) if key != EXTRA => {
                    token.insert("special".to_owned(), Value::Bool(true));
                    Value::Object(token)
                }
                value => value,
            };
            self.keys.insert(key, value);
        }
        self.move_own();
        let path = dir.join(ADDED);
        if let Some(ids) = object(&path)? {
            // A token with its own flags in `tokenizer_config.json` does not count here.
            let counts = |value: &&Value| value.get("__type").is_none();
            let named = NAMES.iter().filter_map(|name| self.keys.get(*name)).filter(|value| !value.is_null());
            let extra = self.keys.get(EXTRA).and_then(Value::as_array).into_iter().flatten();
            let special = named.chain(extra).filter(counts).map(|value| token(&path, "special tokens", value));
            let special: HashSet<String> =
                special.map(|token| Ok(token?.content().to_owned())).collect::<Result<_, TokenizeError>>()?;
            for (content, id) in ids {
                let id = parsed(&path, &content, &id)?;
                let token = AddedToken::from(content.as_str(), special.contains(&content));
                self.added.insert(id, token);
            }
        }
        let path = dir.join("tokenizer.json");
        for token in listed.and_then(Value::as_array).into_iter().flatten() {
            let id = parsed(&path, "added_tokens: id", &token["id"])?;
            self.added.insert(id, flags(&path, "added_tokens", token)?);
        }
        Ok(())
    }

    /// Renames the key under which `transformers` wrote the special tokens without a name before release 5.
    fn rename_additional(&mut self) {
        if !self.keys.contains_key(EXTRA)
            && let Some(additional) = self.keys.remove(ADDITIONAL)
        {
            self.keys.insert(EXTRA.to_owned(), additional);
        }
    }

    /// Moves a map of named tokens out of `extra_special_tokens`, so that this key always holds a list.
    fn move_own(&mut self) {
        if self.keys.get(EXTRA).is_some_and(Value::is_object)
            && let Some(Value::Object(own)) = self.keys.remove(EXTRA)
        {
            self.own.extend(own);
        }
    }

    /// `tokenizer_config.json`, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value under `key`; `None` if it is absent or null.
    ///
    /// # Errors
    /// The value has another type.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, TokenizeError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => parsed(&self.path, key, value).map(Some),
        }
    }

    /// The special token under `key`, with the flags that it has among the added tokens, if it is listed there.
    ///
    /// # Errors
    /// The value is not a token.
    pub(crate) fn token(&self, key: &str) -> Result<Option<Token>, TokenizeError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.known(key, value).map(Some),
        }
    }

    /// Whether `key` exists and is null.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    fn known(&self, key: &str, value: &Value) -> Result<Token, TokenizeError> {
        Ok(self.as_added(token(&self.path, key, value)?))
    }

    /// The token with the flags that it has among the added tokens, if it is listed there.
    fn as_added(&self, token: Token) -> Token {
        let known = self.added.values().find(|known| known.content == token.content());
        known.map_or(token, |known| Token::Flagged(known.clone()))
    }

    /// The tokens of the list under `key`.
    fn listed(&self, key: &str) -> Result<Vec<Token>, TokenizeError> {
        let items = self.keys.get(key).and_then(Value::as_array);
        items.into_iter().flatten().map(|item| token(&self.path, key, item)).collect()
    }

    /// All named special tokens.
    fn named(&self, special: &SpecialTokens) -> Result<Vec<Token>, TokenizeError> {
        let mut named = Vec::new();
        for name in NAMES {
            let default = special.defaults.iter().find(|(key, _)| *key == name).map(|(_, token)| token.clone());
            let token = match self.keys.get(name) {
                // Null means that there is no such token.
                Some(Value::Null) => None,
                Some(value) => Some(self.known(name, value)?),
                None => default.map(|token| self.as_added(token)),
            };
            named.extend(token.map(|token| (special.flags)(name, token)));
        }
        // Tokens under the tokenizer's own names.
        let own = |(key, value): &(&String, &Value)| {
            key.ends_with("_token") && !NAMES.contains(&key.as_str()) && (value.is_string() || value.is_object())
        };
        for (key, value) in self.keys.iter().filter(own) {
            named.push(token(&self.path, key, value)?);
        }
        for (key, value) in &self.own {
            named.push(token(&self.path, key, value)?);
        }
        Ok(named)
    }

    /// The tokens that `transformers` adds to a tokenizer that already has the added tokens `there`, in the order in which it adds them.
    ///
    /// # Errors
    /// A value is not a token.
    pub(super) fn to_add(
        &self,
        there: &HashSet<String>,
        special: &SpecialTokens,
    ) -> Result<Vec<AddedToken>, TokenizeError> {
        let mut tokens: Vec<AddedToken> = self.added.values().cloned().collect();
        let listed = tokens.len();
        let named = self.named(special)?;
        for token in named.iter().cloned().chain(self.listed(EXTRA)?) {
            // If two tokens differ only in their flags, the latter counts.
            if !there.contains(token.content())
                && !tokens[..listed].iter().any(|known| known.content == token.content())
            {
                tokens.push(token.flagged());
            }
        }
        for token in &mut tokens {
            token.special |= named.iter().any(|named| named.content() == token.content);
        }
        Ok(tokens)
    }
}

/// The JSON object in the file at `path`; `None` if the file does not exist.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizeError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(file(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file(path)(error)),
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, key: &str, value: &Value) -> Result<T, TokenizeError> {
    T::deserialize(value).map_err(|error| file(path)(format!("{key} = {value}: {error}")))
}

fn flags(path: &Path, key: &str, value: &Value) -> Result<AddedToken, TokenizeError> {
    parsed::<Flags>(path, key, value).map(Into::into)
}

fn token(path: &Path, key: &str, value: &Value) -> Result<Token, TokenizeError> {
    match value {
        Value::String(content) => Ok(Token::Bare(content.clone())),
        value => flags(path, key, value).map(Token::Flagged),
    }
}
