//! A base's `config.json`, as `transformers` writes it.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::ModelError;

/// What an encoder needs to know of its base. Keys and defaults are those of `transformers`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BaseConfig {
    /// The architecture, `bert`.
    pub model_type: String,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of attention; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward.
    pub intermediate_size: usize,
    /// Activation of the feed-forward.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Dropout of hidden states in training.
    #[serde(default = "tenth")]
    pub hidden_dropout_prob: f64,
    /// Dropout of attention weights in training.
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
    /// Dropout before the classifier in training; `hidden_dropout_prob` where absent.
    #[serde(default)]
    pub classifier_dropout: Option<f64>,
    /// Added to variances.
    #[serde(default = "eps")]
    pub layer_norm_eps: f64,
    /// Rows of the position table: the longest text.
    pub max_position_embeddings: usize,
    /// Rows of the segment table.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// The token that fills up batches, where there is one; nothing here pads.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

fn gelu() -> String {
    "gelu".to_owned()
}
fn tenth() -> f64 {
    0.1
}
fn eps() -> f64 {
    1e-12
}
fn two() -> usize {
    2
}

impl BaseConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// A file that is missing or malformed, sizes that no encoder has, and whatever is not served, by key.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let bytes = std::fs::read(&path).map_err(ModelError::io(&path))?;
        let json = |source| ModelError::Config { path: path.clone(), source };
        let value: Value = serde_json::from_slice(&bytes).map_err(json)?;
        // Before the rest is read: other architectures name their sizes otherwise.
        served(&path, &value)?;
        let config: Self = serde_json::from_value(value).map_err(json)?;
        config.check(&path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (key, size) in sizes {
            demand((1..=MOST).contains(&size), path, key, format!("1 to {MOST}"), size)?;
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        demand(hidden.is_multiple_of(heads), path, "num_attention_heads", format!("a divisor of {hidden}"), heads)?;
        let probabilities = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ];
        for (key, p) in probabilities {
            demand((0.0..1.0).contains(&p), path, key, "0 to less than 1".to_owned(), p)?;
        }
        let eps = self.layer_norm_eps;
        demand(eps > 0.0 && eps < 1.0, path, "layer_norm_eps", "more than 0 and less than 1".to_owned(), eps)
    }
}

/// Far above the size of any encoder; what it keeps out is a product of sizes that overflows.
const MOST: usize = 1 << 24;

fn demand(
    holds: bool,
    path: &Path,
    key: &'static str,
    expected: String,
    found: impl ToString,
) -> Result<(), ModelError> {
    match holds {
        true => Ok(()),
        false => Err(ModelError::Value { path: path.to_owned(), key, expected, found: found.to_string() }),
    }
}

/// Refuses by name what would be computed otherwise than the checkpoint means. Absent keys are the defaults.
fn served(path: &Path, config: &Value) -> Result<(), ModelError> {
    let only = [
        ("model_type", Value::from("bert")),
        // The exact one, by erf; `gelu_new` and its like are approximations.
        ("hidden_act", Value::from("gelu")),
        ("position_embedding_type", Value::from("absolute")),
        ("is_decoder", Value::from(false)),
    ];
    for (key, expected) in only {
        if let Some(found) = config.get(key).filter(|&found| *found != expected) {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(ModelError::Unsupported { path: path.to_owned(), key, expected, found });
        }
    }
    Ok(())
}
