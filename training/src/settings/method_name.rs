//! The names of the methods, and the settings that only some of them have.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The name of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// SoRA: LoRA with gates that become sparse and are pruned.
    Sora,
    /// Plain LoRA.
    Lora,
    /// AdaLoRA: LoRA whose sites share a falling budget of ranks.
    #[value(name = "adalora")]
    #[serde(rename = "adalora")]
    AdaLora,
    /// DyLoRA: LoRA that works at every rank up to --rank.
    #[value(name = "dylora")]
    #[serde(rename = "dylora")]
    DyLora,
    /// The base's biases.
    #[value(name = "bitfit")]
    #[serde(rename = "bitfit")]
    BitFit,
    /// Houlsby's adapters: two bottlenecks in each layer.
    Adapter,
    /// All parameters of the base.
    Full,
}

impl MethodName {
    /// The methods that add low-rank deltas to linears.
    const LOW_RANK: [Self; 4] = [Self::Sora, Self::Lora, Self::AdaLora, Self::DyLora];

    /// The name on the command line and in files.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The methods that have the setting with this name; `None` if all have it.
    #[must_use]
    pub fn with(setting: &str) -> Option<&'static [Self]> {
        match setting {
            "gate" | "target_ratio" | "target_params" | "xi" | "lambda" | "sparse_lambda" | "gate_lr"
            | "depth_bias" => Some(&[Self::Sora]),
            "rank" | "alpha" | "target_modules" => Some(&Self::LOW_RANK),
            "init_rank" | "tinit" | "tfinal" | "delta_t" | "orth_reg_weight" => Some(&[Self::AdaLora]),
            "export_rank" => Some(&[Self::DyLora]),
            "bottleneck" => Some(&[Self::Adapter]),
            _ => None,
        }
    }

    /// Whether the method with the name `method` has the setting with the name `setting`. An unknown method has all.
    #[must_use]
    pub fn has(method: &str, setting: &str) -> bool {
        let methods = Self::from_str(method, false).ok().zip(Self::with(setting));
        methods.is_none_or(|(method, methods)| methods.contains(&method))
    }

    /// Whether the method adds low-rank deltas to linears.
    pub(super) fn has_ranks(self) -> bool {
        Self::LOW_RANK.contains(&self)
    }
}
