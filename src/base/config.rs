//! A base's `config.json`, as `transformers` writes it, with the same keys for every architecture.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ModelError;
use super::architecture::{self, Architecture};
use crate::text::BaseInputs;

/// What an encoder needs to know about its base. The keys are BERT's. Other architectures' names for them are translated
/// ([`Architecture::aliases`]), and keys that a file leaves out get the defaults of `transformers`. Sizes must be
/// there, except for DistilBERT and MPNet: `transformers` always writes them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BaseConfig {
    /// The architecture, such as `bert`.
    pub model_type: String,
    /// The number of rows of the word table.
    pub vocab_size: usize,
    /// The width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads, which divides `hidden_size`.
    pub num_attention_heads: usize,
    /// The width inside the feed-forward.
    pub intermediate_size: usize,
    /// The activation of the feed-forward.
    pub hidden_act: String,
    /// Dropout of hidden states in training.
    pub hidden_dropout_prob: f64,
    /// Dropout of attention weights in training.
    pub attention_probs_dropout_prob: f64,
    /// Dropout before the classifier in training; `hidden_dropout_prob` if absent.
    #[serde(default)]
    pub classifier_dropout: Option<f64>,
    /// The number added to variances.
    pub layer_norm_eps: f64,
    /// The number of rows of the position table; the largest length of a text if positions are relative.
    pub max_position_embeddings: usize,
    /// The number of rows of the segment table; 0 if there is none.
    pub type_vocab_size: usize,
    /// The padding token, if there is one. This crate never pads. Some files say -1 for none.
    #[serde(default)]
    pub pad_token_id: Option<i64>,
    #[serde(skip, default = "bert")]
    architecture: &'static Architecture,
    /// All keys after translation, including those that only one architecture has.
    #[serde(skip)]
    raw: Map<String, Value>,
    /// The file that was read.
    #[serde(skip)]
    path: PathBuf,
}

impl BaseConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// If the file is missing or malformed, a size is not one that an encoder can have, or a value is not supported (the error
    /// names its key).
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(ModelError::io(&path))?;
        let value =
            serde_json::from_slice(&bytes).map_err(|source| ModelError::Config { path: path.clone(), source })?;
        Self::parse(&path, value)
    }

    /// Checks the contents of the file `path`.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn parse(path: &Path, value: Value) -> Result<Self, ModelError> {
        let json = |source| ModelError::Config { path: path.to_owned(), source };
        let raw: Map<String, Value> = from_value(value).map_err(json)?;
        // First of all, because the names of the other keys depend on the architecture.
        let architecture = architecture(path, &raw)?;
        let raw = translated(raw, architecture);
        served(path, &raw, architecture)?;
        let mut config: Self = from_value(Value::Object(raw.clone())).map_err(json)?;
        (config.architecture, config.raw, config.path) = (architecture, raw, path.to_owned());
        config.check()?;
        Ok(config)
    }

    /// The row of the table of architectures for `model_type`.
    #[must_use]
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// The padding token, if positions are counted from its id as in RoBERTa ([`Architecture::padding`]).
    #[must_use]
    pub fn padding(&self) -> Option<u32> {
        (self.architecture.padding)(self)
    }

    /// The number of tokens of a text for which the base was made. In RoBERTa, the positions up to the padding token's id are not used
    /// for tokens.
    #[must_use]
    pub fn positions(&self) -> usize {
        let before = self.padding().map_or(0, |padding| padding as usize + 1);
        self.max_position_embeddings.saturating_sub(before)
    }

    /// The largest number of tokens of a text. It exceeds [`Self::positions`] if the base knows only distances of tokens.
    #[must_use]
    pub fn longest_text(&self) -> usize {
        if (self.architecture.has_positions)(self) { self.positions() } else { self.positions().max(MOST_TOKENS) }
    }

    /// The name that `transformers` keeps of the checkpoint that the base was made from (`_name_or_path`).
    #[must_use]
    pub fn original_name(&self) -> Option<&str> {
        self.raw.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// What a tokenizer needs to know about the base.
    #[must_use]
    pub fn tokenizer_inputs(&self) -> BaseInputs<'_> {
        BaseInputs {
            own_class: self.architecture.tokenizer_class,
            tokenizer_class: self.raw.get("tokenizer_class").and_then(Value::as_str),
            positions: self.positions(),
            longest: self.longest_text(),
            words: self.vocab_size,
            segments: Some(self.type_vocab_size).filter(|segments| *segments > 1),
        }
    }

    /// Dropout of the head's input in training, for architectures that have it.
    #[must_use]
    pub fn head_input_dropout(&self) -> f64 {
        let own = self.raw.get("pooler_dropout").and_then(Value::as_f64);
        own.unwrap_or(self.classifier_dropout.unwrap_or(self.hidden_dropout_prob))
    }

    /// Reads the keys that only one architecture has.
    ///
    /// # Errors
    /// If a key is missing or has another type.
    pub fn own<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        let json = |source| ModelError::Config { path: self.path.clone(), source };
        // Null means that a key is absent.
        let said = self.raw.iter().filter(|(_, value)| !value.is_null());
        let said: Map<String, Value> = said.map(|(key, value)| (key.clone(), value.clone())).collect();
        from_value(Value::Object(said)).map_err(json)
    }

    /// Rejects a value that no encoder can have, unless `holds`.
    pub(crate) fn demand(
        &self,
        holds: bool,
        key: &'static str,
        expected: String,
        found: impl ToString,
    ) -> Result<(), ModelError> {
        if holds {
            Ok(())
        } else {
            Err(ModelError::Value { path: self.path.clone(), key, expected, found: found.to_string() })
        }
    }

    fn check(&self) -> Result<(), ModelError> {
        let untyped = (self.architecture.defaults)()["type_vocab_size"] == 0;
        let sizes = [
            ("vocab_size", self.vocab_size, 1),
            ("hidden_size", self.hidden_size, 1),
            ("num_attention_heads", self.num_attention_heads, 1),
            ("intermediate_size", self.intermediate_size, 1),
            ("max_position_embeddings", self.max_position_embeddings, 1),
            ("type_vocab_size", self.type_vocab_size, usize::from(!untyped)),
        ];
        let layers = self.num_hidden_layers;
        self.demand((1..=MOST_LAYERS).contains(&layers), "num_hidden_layers", format!("1 to {MOST_LAYERS}"), layers)?;
        for (key, size, least) in sizes {
            self.demand((least..=MOST).contains(&size), key, format!("{least} to {MOST}"), size)?;
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        self.demand(hidden.is_multiple_of(heads), "num_attention_heads", format!("a divisor of {hidden}"), heads)?;
        let probabilities = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ];
        for (key, p) in probabilities {
            self.demand((0.0..1.0).contains(&p), key, "0 to less than 1".to_owned(), p)?;
        }
        // Positions are counted from the one after this id.
        if self.architecture.model_type.contains("roberta")
            && let Some(padding) = self.pad_token_id
        {
            let most = self.max_position_embeddings as i64 - 2;
            self.demand((-1..=most).contains(&padding), "pad_token_id", format!("-1 to {most}"), padding)?;
        }
        let eps = self.layer_norm_eps;
        self.demand(eps > 0.0 && eps < 1.0, "layer_norm_eps", "more than 0 and less than 1".to_owned(), eps)
    }
}

/// Reads a value of a file. The error names the key.
fn from_value<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (key, error) = (error.path().to_string(), error.into_inner());
        // A missing key is named by the error itself.
        if key == "." { error } else { serde::de::Error::custom(format!("{key}: {error}")) }
    })
}

/// A placeholder until the configuration's own architecture is known.
fn bert() -> &'static Architecture {
    &architecture::ARCHITECTURES[0]
}

/// An upper bound of sizes, far above any encoder's. It keeps products of sizes from overflowing.
const MOST: usize = 1 << 24;

/// The most tokens of a text for a base without a table of positions, in which any number of tokens has an answer. It bounds the memory
/// of attention.
const MOST_TOKENS: usize = 8192;

/// More layers than any encoder has. It refuses a huge number, for which huge tables would be allocated.
pub(crate) const MOST_LAYERS: usize = 1024;

fn architecture(path: &Path, raw: &Map<String, Value>) -> Result<&'static Architecture, ModelError> {
    let named = raw.get("model_type").and_then(Value::as_str).unwrap_or_default();
    architecture::architecture(named).ok_or_else(|| {
        let known: Vec<_> = architecture::ARCHITECTURES.iter().map(|known| known.model_type).collect();
        let found = raw.get("model_type").map_or_else(|| "null".to_owned(), Value::to_string);
        ModelError::Unsupported { path: path.to_owned(), key: "model_type", expected: known.join(", "), found }
    })
}

/// Translates keys to BERT's names, and fills in missing keys with the architecture's defaults, or else BERT's.
fn translated(mut raw: Map<String, Value>, architecture: &Architecture) -> Map<String, Value> {
    for (own, common) in architecture.aliases {
        let (value, spelt) = (raw.remove(*own), raw.remove(*common));
        let spelt = spelt.filter(|value| architecture.synonyms.contains(common) && !value.is_null());
        raw.extend(spelt.or(value).map(|value| ((*common).to_owned(), value)));
    }
    // Whole numbers may be written as floats, such as 12.0.
    for value in raw.values_mut() {
        if let Some(float) =
            value.as_f64().filter(|float| value.is_f64() && float.fract() == 0.0 && float.abs() < MOST as f64)
        {
            *value = Value::from(float as i64);
        }
    }
    let bert = serde_json::json!({
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
    });
    for defaults in [(architecture.defaults)(), bert] {
        for (key, value) in defaults.as_object().into_iter().flatten() {
            if raw.get(key).is_none_or(Value::is_null) {
                raw.insert(key.clone(), value.clone());
            }
        }
    }
    raw
}

/// Rejects, by name, values with which this crate would not compute what the checkpoint means. Absent keys have their defaults.
fn served(path: &Path, raw: &Map<String, Value>, architecture: &Architecture) -> Result<(), ModelError> {
    let everywhere = [
        // The exact GELU, with erf. `gelu_new` and similar functions are approximations.
        ("hidden_act", Value::from("gelu")),
        ("is_decoder", Value::from(false)),
        ("is_causal", Value::from(false)),
    ];
    for (key, expected) in everywhere.into_iter().chain((architecture.only)()) {
        // Null means that a key is absent. `gelu_python` is the same function as `gelu`.
        let other = |found: &&Value| {
            !found.is_null() && **found != expected && !(*found == "gelu_python" && expected == "gelu")
        };
        if let Some(found) = raw.get(key).filter(other) {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(ModelError::Unsupported { path: path.to_owned(), key, expected, found });
        }
    }
    Ok(())
}
