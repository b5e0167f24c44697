//! Reads `adapter_config.json`: PEFT's LoRA settings, with PEFT's defaults. Settings that are not supported are refused.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::AdapterError;
use super::files::Bytes;

/// A selection of modules, by names or by a regex.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(super) enum TargetRule {
    /// A regex that the whole name must match, or `all-linear`.
    Pattern(String),
    /// Full names, or the ends of names after a dot.
    Names(Vec<String>),
}

/// A value or a list of values.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a value or a list of values")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// The settings of `adapter_config.json` that matter here.
#[derive(Debug, Clone)]
pub(super) struct PeftConfig {
    pub(super) base_model: Option<String>,
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) use_rslora: bool,
    pub(super) target_modules: TargetRule,
    pub(super) exclude_modules: Option<TargetRule>,
    /// In the file's order, because the first key that matches a name wins.
    pub(super) rank_pattern: Map<String, Value>,
    pub(super) alpha_pattern: Map<String, Value>,
    pub(super) modules_to_save: Vec<String>,
    /// Empty if all layers are adapted.
    pub(super) layers_to_transform: Vec<usize>,
    pub(super) layers_pattern: Vec<String>,
}

/// Keys that are read, and keys that do not change what a loaded adapter computes.
const KNOWN: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "velora_config",
];

/// Keys of variants that compute something else. They are refused unless they are switched off.
const VARIANTS: &[&str] = &[
    "alora_invocation_string",
    "alora_invocation_tokens",
    "arrow_config",
    "enable_lora",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

/// Methods of initialisation that subtract from the base's weights, so that the adapter needs a changed base.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// PEFT's default where `target_modules` is absent. It depends on the architecture, but these names mean the same linears in every
/// architecture that is served.
const DEFAULT_TARGETS: [&str; 4] = ["query", "value", "query_proj", "value_proj"];

impl PeftConfig {
    /// Reads and checks the bytes of `adapter_config.json`.
    pub(super) fn parse(Bytes { file, bytes }: &Bytes) -> Result<Self, AdapterError> {
        let raw: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| AdapterError::malformed(file, error))?;
        let raw = Raw { file, raw };
        raw.refuse_what_is_not_served()?;
        let config = Self {
            // For display only.
            base_model: raw.raw.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            rank: raw.get("r")?.unwrap_or(8),
            alpha: raw.get("lora_alpha")?.unwrap_or(8.0),
            use_rslora: raw.flag("use_rslora")?.unwrap_or(false),
            target_modules: match raw.get("target_modules")? {
                Some(targets) => targets,
                None => TargetRule::Names(DEFAULT_TARGETS.map(str::to_owned).into()),
            },
            exclude_modules: raw.get("exclude_modules")?,
            rank_pattern: raw.get("rank_pattern")?.unwrap_or_default(),
            alpha_pattern: raw.get("alpha_pattern")?.unwrap_or_default(),
            modules_to_save: raw.get("modules_to_save")?.unwrap_or_default(),
            layers_to_transform: raw.get("layers_to_transform")?.map(OneOrMany::into_vec).unwrap_or_default(),
            layers_pattern: raw.get("layers_pattern")?.map(OneOrMany::into_vec).unwrap_or_default(),
        };
        let by_pattern = matches!(config.target_modules, TargetRule::Pattern(_));
        // Layer 0 and an empty list are values here, unlike null.
        for key in ["layers_to_transform", "layers_pattern"] {
            if by_pattern && raw.raw.get(key).is_some_and(|value| !value.is_null()) {
                return Err(AdapterError::malformed(
                    file,
                    format!("{key} does not go with target_modules as a string"),
                ));
            }
        }
        if !raw.is_off("layers_pattern") && raw.raw.get("layers_to_transform").is_none_or(Value::is_null) {
            return Err(AdapterError::malformed(file, "layers_pattern without layers_to_transform"));
        }
        Ok(config)
    }
}

/// A JSON object, and the file that it was read from.
pub(super) struct Raw<'a> {
    pub(super) file: &'a Path,
    pub(super) raw: Map<String, Value>,
}

/// Turns whole numbers that are spelt as floats into integers, also inside lists: Python writes 8.0 for some.
pub(super) fn whole(value: Value) -> Value {
    /// Below this, every whole number can be written as a float exactly.
    const MOST: f64 = (1_u64 << 53) as f64;
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < MOST => Value::from(float as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole).collect(),
        other => other,
    }
}

impl Raw<'_> {
    /// The value under `key`. `None` if it is absent or null, which PEFT treats alike.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, AdapterError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let error = |error| AdapterError::malformed(self.file, format!("{key} = {value}: {error}"));
                T::deserialize(whole(value.clone())).map(Some).map_err(error)
            }
        }
    }

    /// A boolean, which may be spelt 0 or 1, as in Python.
    fn flag(&self, key: &str) -> Result<Option<bool>, AdapterError> {
        match self.raw.get(key).cloned().map(whole) {
            Some(Value::Number(number)) if number.as_u64().is_some_and(|number| number < 2) => {
                Ok(Some(number.as_u64() == Some(1)))
            }
            _ => self.get(key),
        }
    }

    fn is_off(&self, key: &str) -> bool {
        match self.raw.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Number(number)) => number.as_f64() == Some(0.0),
            Some(Value::Bool(true)) => false,
        }
    }

    fn refuse_what_is_not_served(&self) -> Result<(), AdapterError> {
        let Some(peft_type) = self.get::<Value>("peft_type")? else {
            return Err(AdapterError::malformed(self.file, "peft_type is missing"));
        };
        for (key, value) in &self.raw {
            if VARIANTS.contains(&key.as_str()) {
                if !self.is_off(key) {
                    return Err(AdapterError::unsupported(self.file, key, value));
                }
            } else if !KNOWN.contains(&key.as_str()) {
                tracing::warn!(file = %self.file.display(), key, "unknown key in an adapter's configuration");
            }
        }
        if peft_type != "LORA" {
            return Err(AdapterError::unsupported(self.file, "peft_type", peft_type));
        }
        self.only("task_type", |value| value == "SEQ_CLS")?;
        self.only("bias", |value| value == "none")?;
        // PEFT turns it off where it adapts an `nn.Linear`, and bases have no other linears.
        self.only("fan_in_fan_out", |value| value == true || self.is_off("fan_in_fan_out"))?;
        if !self.is_off("fan_in_fan_out") {
            tracing::warn!(file = %self.file.display(), "fan_in_fan_out is ignored, as in PEFT: the base's linears are not transposed");
        }
        self.only("init_lora_weights", |value| {
            let method = value.as_str().unwrap_or_default().to_lowercase();
            !CHANGES_BASE.iter().any(|name| method.starts_with(name))
        })
    }

    /// Refuses the value under `key` if there is one and `served` does not accept it.
    fn only(&self, key: &str, served: impl Fn(&Value) -> bool) -> Result<(), AdapterError> {
        match self.get::<Value>(key)? {
            Some(value) if !served(&value) => Err(AdapterError::unsupported(self.file, key, value)),
            _ => Ok(()),
        }
    }
}
