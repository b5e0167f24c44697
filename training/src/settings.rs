//! The settings of a run. Each setting is declared here, in [`DataSettings`] or in [`RunSettings`] only, with its name, environment
//! variable, default and help, which clap reads. Names and types in TOML files are the same.
//!
//! | file | idea |
//! | --- | --- |
//! | `method_name` | the names of the methods, and the settings that only some of them have |
//! | `resolve` | the defaults that depend on other settings, on the data or on the base |
//! | `check` | the limits of the values |
//! | `method` | makes the method that the settings name |
//! | `data` | the settings of how a task's data is read |
//! | `run` | the settings of how a run is carried out |

mod check;
mod data;
mod method;
mod method_name;
mod resolve;
mod run;

use clap::Args;
use polyrank::params::Precision;
use serde::{Deserialize, Serialize};

pub use self::data::{DATASET, DataSettings, VALIDATION_SPLIT, source};
pub use self::method_name::MethodName;
pub use self::resolve::default_init_rank;
pub use self::run::RunSettings;
use crate::method::sora::GateRule;

/// Which epoch becomes the adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The best by the first metric on validation and, where that is equal, by the loss; of the epochs that end once the ranks are final.
    #[default]
    Best,
    /// The last.
    Last,
}

/// The default maximum number of tokens of a text.
pub const DEFAULT_LENGTH: usize = 128;
/// The default rank.
const RANK: usize = 8;
/// The default numerator of the scale.
const ALPHA: f64 = 16.0;
/// The default weight of the penalty on the authors' gates with a constant threshold.
pub const AUTHORS_LAMBDA: f64 = 10.0;

/// Everything that determines a run except the data and the base's weights. A default that depends on other settings, on the data or on
/// the base is `None` here; [`Self::resolved`] puts its value in its place. The resolved settings are written to `run/config.toml`.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct Settings {
    /// Method of training.
    #[arg(long, env = "POLYRANK_TRAIN_METHOD", value_enum, default_value_t = MethodName::Sora, help_heading = "Method")]
    pub method: MethodName,
    /// The base: a folder, a hub id or default.
    #[arg(long, env = "POLYRANK_TRAIN_MODEL_ID", value_name = "M", default_value = "default", help_heading = "Method")]
    pub model_id: String,
    /// Rank of each site before pruning.
    #[arg(long, env = "POLYRANK_TRAIN_RANK", default_value_t = RANK, help_heading = "Method")]
    pub rank: usize,
    /// The scale is alpha / rank (adalora: alpha / init-rank).
    #[arg(long, env = "POLYRANK_TRAIN_ALPHA", default_value_t = ALPHA, help_heading = "Method")]
    pub alpha: f64,
    /// Adapted modules, comma-separated (query or attention.self.query) [default: all linears of a layer].
    #[arg(long, env = "POLYRANK_TRAIN_TARGET_MODULES", value_delimiter = ',', help_heading = "Method")]
    pub target_modules: Vec<String>,
    /// How gates learn: adaptive starts them equal and drops the ranks that reduce the loss least; paper and authors start them at
    /// random and shrink all of them alike, after a plain gradient step or Adam's step [default: adaptive; authors with --xi or --lambda].
    #[arg(long, env = "POLYRANK_TRAIN_GATE", value_enum, help_heading = "Method")]
    pub gate: Option<GateRule>,
    /// Share of the adapter's parameters to keep [default: 0.65].
    #[arg(long, env = "POLYRANK_TRAIN_TARGET_RATIO", help_heading = "Method")]
    pub target_ratio: Option<f64>,
    /// Constant threshold, instead of a ratio.
    #[arg(long, env = "POLYRANK_TRAIN_XI", help_heading = "Method")]
    pub xi: Option<f64>,
    /// Threshold as learning rate times lambda, instead of a ratio.
    #[arg(long, env = "POLYRANK_TRAIN_LAMBDA", help_heading = "Method")]
    pub lambda: Option<f64>,
    /// Weight of the authors' penalty on gates in the loss [default: 10 with --xi and authors' gates, else 0].
    #[arg(long, env = "POLYRANK_TRAIN_SPARSE_LAMBDA", help_heading = "Method")]
    pub sparse_lambda: Option<f64>,
    /// Number of the adapter's parameters to keep, without the head, instead of a ratio.
    #[arg(long, env = "POLYRANK_TRAIN_TARGET_PARAMS", help_heading = "Method")]
    pub target_params: Option<usize>,
    /// How much earlier shallow layers lose their ranks, so that adapters share more of the base's first layers. 0 removes ranks by
    /// their effect alone; with 100, a layer is nearly empty before the next one loses a rank.
    #[arg(long, env = "POLYRANK_TRAIN_DEPTH_BIAS", default_value_t = 0.0, help_heading = "Method")]
    #[serde(default)]
    pub depth_bias: f64,
    /// Rank at which AdaLoRA starts; --rank is the mean rank at which it ends [default: 1.5 times --rank].
    #[arg(long, env = "POLYRANK_TRAIN_INIT_RANK", help_heading = "Method")]
    pub init_rank: Option<usize>,
    /// Share of the steps before AdaLoRA's budget falls [default: 0.15].
    #[arg(long, env = "POLYRANK_TRAIN_TINIT", help_heading = "Method")]
    pub tinit: Option<f64>,
    /// Share of the steps after AdaLoRA's ranks are final [default: 0.5].
    #[arg(long, env = "POLYRANK_TRAIN_TFINAL", help_heading = "Method")]
    pub tfinal: Option<f64>,
    /// Number of steps from one choice of AdaLoRA's ranks to the next [default: one in 500 of the run's steps, at least 1].
    #[arg(long, env = "POLYRANK_TRAIN_DELTA_T", value_name = "STEPS", help_heading = "Method")]
    pub delta_t: Option<usize>,
    /// Weight of AdaLoRA's orthogonality penalty in the loss [default: 0.5].
    #[arg(long, env = "POLYRANK_TRAIN_ORTH_REG_WEIGHT", help_heading = "Method")]
    pub orth_reg_weight: Option<f64>,
    /// Rank at which DyLoRA's adapter is written [default: that of --rank].
    #[arg(long, env = "POLYRANK_TRAIN_EXPORT_RANK", help_heading = "Method")]
    pub export_rank: Option<usize>,
    /// Number of values inside a bottleneck of the method adapter [default: 64].
    #[arg(long, env = "POLYRANK_TRAIN_BOTTLENECK", help_heading = "Method")]
    pub bottleneck: Option<usize>,
    /// Passes over the training data [default: as many as give about 1,000 steps, from 3 to 20, or 60 with several labels a row].
    #[arg(long, env = "POLYRANK_TRAIN_EPOCHS", help_heading = "Optimiser")]
    pub epochs: Option<usize>,
    /// Number of texts in a step [default: 16 below 3,000 rows, else 32].
    #[arg(long, env = "POLYRANK_TRAIN_BATCH_SIZE", help_heading = "Optimiser")]
    pub batch_size: Option<usize>,
    /// Peak learning rate [default: by the rows, the base's width and the method; with sora 1e-3 for 1,000 rows and a width of 384, 5e-4
    /// for 3,000].
    #[arg(long, env = "POLYRANK_TRAIN_LR", help_heading = "Optimiser")]
    pub lr: Option<f64>,
    /// Peak learning rate of the gates [default: that of --lr].
    #[arg(long, env = "POLYRANK_TRAIN_GATE_LR", help_heading = "Optimiser")]
    pub gate_lr: Option<f64>,
    /// Share of the steps during which the learning rate rises.
    #[arg(long, env = "POLYRANK_TRAIN_WARMUP", default_value_t = 0.06, help_heading = "Optimiser")]
    pub warmup: f64,
    /// Weight decay of matrices and of AdaLoRA's singular values, but not of biases, norms and gates.
    #[arg(long, env = "POLYRANK_TRAIN_WEIGHT_DECAY", default_value_t = 0.01, help_heading = "Optimiser")]
    pub weight_decay: f64,
    /// Maximum norm of the gradients.
    #[arg(long, env = "POLYRANK_TRAIN_CLIP", default_value_t = 1.0, help_heading = "Optimiser")]
    pub clip: f64,
    /// Dropout rate [default: the base's own rates].
    #[arg(long, env = "POLYRANK_TRAIN_DROPOUT", help_heading = "Optimiser")]
    pub dropout: Option<f64>,
    /// Number of epochs before dropout starts [default: 1, or 0 for a single epoch].
    // Late dropout: Liu et al. 2023.
    #[arg(long, env = "POLYRANK_TRAIN_DROPOUT_AFTER", value_name = "EPOCHS", help_heading = "Optimiser")]
    pub dropout_after: Option<usize>,
    /// Precision of the base's matrix products; train in the precision that you serve in. A GPU has f32 and bf16.
    #[arg(long, env = "POLYRANK_TRAIN_DTYPE", value_enum, default_value_t = Precision::F32, help_heading = "Device")]
    #[serde(default)]
    pub dtype: Precision,
    /// Maximum number of tokens of a text [default: 128, or the base's maximum if that is smaller].
    #[arg(long, env = "POLYRANK_TRAIN_MAX_LENGTH", help_heading = "Data")]
    pub max_length: Option<usize>,
    /// Random seed.
    #[arg(long, env = "POLYRANK_TRAIN_SEED", default_value_t = 0, help_heading = "Optimiser")]
    pub seed: u64,
    /// Epoch that becomes the adapter.
    #[arg(long, env = "POLYRANK_TRAIN_SELECT", value_enum, default_value_t = Select::Best, help_heading = "Optimiser")]
    #[serde(default)]
    pub select: Select,
    /// Number of batches in a step (gradient accumulation): as a batch with all their rows, in the memory of one.
    #[arg(long, env = "POLYRANK_TRAIN_ACCUMULATE", value_name = "N", default_value_t = 1, help_heading = "Optimiser")]
    #[serde(default = "one")]
    pub accumulate: usize,
    /// End the run once this many epochs in a row were not better than the best (as --select best compares them) [default: train all].
    #[arg(long, env = "POLYRANK_TRAIN_PATIENCE", value_name = "EPOCHS", help_heading = "Optimiser")]
    pub patience: Option<usize>,
    /// The numbers of epochs that a longer run had before, comma-separated; --resume with more --epochs sets it.
    #[arg(
        long,
        env = "POLYRANK_TRAIN_EXTENDED_FROM",
        value_name = "EPOCHS",
        value_delimiter = ',',
        hide = true,
        help_heading = "Optimiser"
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended_from: Vec<usize>,
}

fn one() -> usize {
    1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Command;

    use super::{Args, DataSettings, RunSettings, Settings};

    #[test]
    fn every_setting_has_an_environment_variable_help_and_a_section() {
        let command = DataSettings::augment_args(Settings::augment_args(Command::new("train")));
        let command = RunSettings::augment_args(command);
        for arg in command.get_arguments() {
            let flag = arg.get_long().unwrap();
            let env = format!("POLYRANK_TRAIN_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(&*env));
            assert!(arg.get_help_heading().is_some() && arg.get_help().is_some(), "{flag}");
            assert_eq!(arg.get_id().as_str(), flag.replace('-', "_"), "its name in a file");
        }
    }
}
