//! `adapter_config.json`: PEFT's LoRA settings, with PEFT's defaults, and what of them is refused.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::AdapterError;

/// Modules by names or by a regex.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Targets {
    /// A regex that the whole name must match, or `all-linear`.
    Pattern(String),
    /// Whole names, or what follows a dot in them.
    Names(Vec<String>),
}

/// One layer or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What of `adapter_config.json` decides an adapter.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PeftConfig {
    peft_type: String,
    #[serde(default)]
    pub(super) base_model_name_or_path: Option<String>,
    #[serde(default = "eight")]
    pub(super) r: usize,
    #[serde(default = "eight_point_zero")]
    pub(super) lora_alpha: f64,
    #[serde(default)]
    pub(super) target_modules: Option<Targets>,
    #[serde(default)]
    pub(super) exclude_modules: Option<Targets>,
    // In the file's order, which decides: the first key that matches wins.
    #[serde(default)]
    pub(super) rank_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) alpha_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) use_rslora: bool,
    #[serde(default)]
    pub(super) modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers_to_transform: Option<OneOrMany<usize>>,
    #[serde(default)]
    pub(super) layers_pattern: Option<OneOrMany<String>>,
}

fn eight() -> usize {
    8
}
fn eight_point_zero() -> f64 {
    8.0
}

/// Keys that are read, and keys that say nothing about the result of a loaded adapter.
const KNOWN: &[&str] = &[
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern",
    "alpha_pattern", "use_rslora", "modules_to_save", "layers_to_transform", "layers_pattern", "bias", "fan_in_fan_out",
    "init_lora_weights", "task_type", "auto_mapping", "inference_mode", "lora_dropout", "megatron_config",
    "megatron_core", "revision", "runtime_config", "peft_version", "loftq_config", "eva_config", "corda_config",
    "ensure_weight_tying", "lora_ga_config",
];

/// Keys of variants that compute something else: anything but these values is refused.
const UNSUPPORTED: &[&str] = &[
    "use_dora", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
    "target_parameters", "trainable_token_indices", "monteclora_config", "velora_config",
];

impl PeftConfig {
    /// Reads and checks `dir/adapter_config.json`.
    pub(super) fn read(path: &Path) -> Result<Self, AdapterError> {
        let bytes = std::fs::read(path).map_err(AdapterError::io(path))?;
        let raw: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|error| AdapterError::malformed(path, error))?;
        let config: Self =
            serde_json::from_value(Value::Object(raw.clone())).map_err(|error| AdapterError::malformed(path, error))?;
        let refuse = |key: &str, found: &dyn ToString| AdapterError::unsupported(path, key, found);
        if config.peft_type != "LORA" {
            return Err(refuse("peft_type", &config.peft_type));
        }
        for (key, value) in &raw {
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            // Named here or recognised by the family's word, so that later variants of theirs are refused as well.
            let variant = UNSUPPORTED.contains(&key.as_str())
                || ["dora", "alora", "qalora", "bdlora"].iter().any(|word| key.split('_').any(|part| part == *word));
            if variant && !empty {
                return Err(refuse(key, value));
            }
            if !variant && !KNOWN.contains(&key.as_str()) {
                tracing::warn!(file = %path.display(), key, "unknown key in an adapter's configuration");
            }
        }
        check_value(&raw, "bias", |v| v == "none").map_err(|found| refuse("bias", &found))?;
        check_value(&raw, "fan_in_fan_out", |v| v == &false).map_err(|found| refuse("fan_in_fan_out", &found))?;
        check_value(&raw, "task_type", |v| v == "SEQ_CLS").map_err(|found| refuse("task_type", &found))?;
        let changes_base = |v: &Value| {
            v.as_str().is_some_and(|s| {
                let s = s.to_lowercase();
                ["pissa", "olora", "corda", "loftq"].iter().any(|method| s.starts_with(method))
            })
        };
        check_value(&raw, "init_lora_weights", |v| !changes_base(v)).map_err(|found| refuse("init_lora_weights", &found))?;
        if !config.lora_alpha.is_finite() {
            return Err(AdapterError::malformed(path, "lora_alpha is not a finite number"));
        }
        Ok(config)
    }
}

/// The value under `key` if it is there, is not null and does not satisfy `allowed`.
fn check_value(raw: &Map<String, Value>, key: &str, allowed: impl Fn(&Value) -> bool) -> Result<(), Value> {
    match raw.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if allowed(value) => Ok(()),
        Some(value) => Err(value.clone()),
    }
}
