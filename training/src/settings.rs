//! The settings of a run. Each setting is declared here, in [`DataSettings`] or in [`RunSettings`] only, with its name, environment
//! variable, default and help, which clap reads. Names and types in TOML files are the same.

mod check;
mod data;
mod run;

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use polyrank::adapter::ProblemType;
use polyrank::engine::Engine;
use polyrank::params::Precision;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

pub use self::data::{DATASET, DataSettings, VALIDATION_SPLIT, source};
pub use self::run::RunSettings;
use crate::defaults::{Hyperparameters, PeakRates};
use crate::error::{Error, wrong};
use crate::method::adalora::{AdaLora, AdaLoraSettings};
use crate::method::sora::{GateRule, Sora, SoraSettings, Threshold};
use crate::method::{BottleneckAdapter, DyLora, Lora, LowRankSettings, Method, TrainedHead, bitfit, full};

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
    fn has_ranks(self) -> bool {
        Self::LOW_RANK.contains(&self)
    }
}

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
    /// Weight decay of matrices, but not of biases, norms and gates.
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

impl Settings {
    /// These settings with every default in its place, for `rows` rows of training data and the base of `engine`.
    #[must_use]
    pub fn resolved(&self, rows: usize, problem: ProblemType, engine: &Engine) -> Self {
        let Hyperparameters { epochs, batch_size, lr } = self.hyperparameters(rows, problem, engine);
        let gated = self.method == MethodName::Sora;
        let ratio = match self.threshold() {
            Threshold::Ratio(ratio) if gated => Some(ratio),
            _ => None,
        };
        Self {
            gate: self.of(MethodName::Sora, self.gate()),
            target_ratio: ratio,
            target_params: self.target_params.filter(|_| gated),
            depth_bias: if gated { self.depth_bias } else { 0.0 },
            xi: self.xi.filter(|_| gated),
            lambda: self.lambda.filter(|_| gated),
            sparse_lambda: self.of(MethodName::Sora, self.sparse_lambda()),
            epochs: Some(epochs),
            batch_size: Some(batch_size),
            lr: Some(lr),
            gate_lr: self.gate_lr.filter(|_| gated),
            init_rank: self.of(MethodName::AdaLora, self.init_rank()),
            tinit: self.of(MethodName::AdaLora, self.tinit()),
            tfinal: self.of(MethodName::AdaLora, self.tfinal()),
            delta_t: self.delta_t.filter(|_| self.method == MethodName::AdaLora),
            orth_reg_weight: self.of(MethodName::AdaLora, self.orth_reg_weight()),
            export_rank: self.of(MethodName::DyLora, self.export_rank.unwrap_or(self.rank)),
            bottleneck: self.of(MethodName::Adapter, self.bottleneck()),
            dropout_after: Some(self.dropout_after(self.extended_from.first().copied().unwrap_or(epochs))),
            max_length: Some(self.longest(engine)),
            ..self.clone()
        }
        .without_unused_ranks()
    }

    /// These settings with the default ranks if the method has none. A file or a variable that serves several runs may give ranks, which
    /// are then no reason to refuse to continue a run.
    #[must_use]
    pub(crate) fn without_unused_ranks(self) -> Self {
        if self.method.has_ranks() {
            return self;
        }
        Self { rank: RANK, alpha: ALPHA, target_modules: Vec::new(), ..self }
    }

    /// Epochs, batch size and learning rate, for `rows` rows of training data.
    #[must_use]
    pub fn hyperparameters(&self, rows: usize, problem: ProblemType, engine: &Engine) -> Hyperparameters {
        let rates = match self.method {
            MethodName::Sora | MethodName::Lora | MethodName::DyLora => PeakRates::LORA,
            MethodName::AdaLora => PeakRates::ADALORA,
            MethodName::BitFit | MethodName::Adapter => PeakRates::FEW_PARAMETERS,
            MethodName::Full => PeakRates::FULL,
        };
        let width = engine.config().hidden_size;
        let default = Hyperparameters::new(rows, problem, width, self.batch_size, rates);
        let rows_of_step = default.batch_size.saturating_mul(self.accumulate);
        let by_steps = || Hyperparameters::new(rows, problem, width, Some(rows_of_step), rates).epochs;
        Hyperparameters {
            epochs: self.epochs.unwrap_or_else(by_steps),
            batch_size: default.batch_size,
            lr: self.lr.unwrap_or(default.lr),
        }
    }

    /// The number of epochs before dropout starts, in a run of `epochs`. With dropout from the first step, some tasks (CoLA) predict only
    /// the majority class for several epochs.
    #[must_use]
    pub fn dropout_after(&self, epochs: usize) -> usize {
        self.dropout_after.unwrap_or(usize::from(epochs > 1))
    }

    /// The maximum number of tokens of a text on this base.
    #[must_use]
    pub fn longest(&self, engine: &Engine) -> usize {
        self.max_length.unwrap_or_else(|| engine.max_length().min(DEFAULT_LENGTH))
    }

    fn threshold(&self) -> Threshold {
        match (self.xi, self.lambda, self.target_params) {
            (Some(xi), ..) => Threshold::Xi(xi),
            (_, Some(lambda), _) => Threshold::Lambda(lambda),
            (.., Some(kept)) => Threshold::Parameters(kept),
            _ => Threshold::Ratio(self.target_ratio.unwrap_or(0.65)),
        }
    }

    fn gate(&self) -> GateRule {
        let steered = matches!(self.threshold(), Threshold::Ratio(_) | Threshold::Parameters(_));
        self.gate.unwrap_or(if steered { GateRule::Adaptive } else { GateRule::Authors })
    }

    fn sparse_lambda(&self) -> f64 {
        let penalised = self.xi.is_some() && self.gate() == GateRule::Authors;
        self.sparse_lambda.unwrap_or(if penalised { 10.0 } else { 0.0 })
    }

    /// A setting of one method; `None` with another method.
    fn of<T>(&self, method: MethodName, value: T) -> Option<T> {
        (self.method == method).then_some(value)
    }

    fn init_rank(&self) -> usize {
        self.init_rank.unwrap_or((3 * self.rank).div_ceil(2))
    }

    fn tinit(&self) -> f64 {
        self.tinit.unwrap_or(0.15)
    }

    fn tfinal(&self) -> f64 {
        self.tfinal.unwrap_or(0.5)
    }

    fn orth_reg_weight(&self) -> f64 {
        self.orth_reg_weight.unwrap_or(0.5)
    }

    fn bottleneck(&self) -> usize {
        self.bottleneck.unwrap_or(64)
    }

    /// The method with fresh variables, for the base of `engine`, and `rows` rows of training data whose labels are of the kind `problem`.
    /// Only this function knows all methods by name.
    ///
    /// # Errors
    /// As [`Self::modules`]; the rank is too large for the adapted modules; `--target-params` or `--target-ratio` is not a possible number
    /// of parameters; `--bottleneck` is too large for the base; the base of BitFit has no biases; or a tensor operation fails.
    pub fn method(
        &self,
        engine: &Engine,
        labels: usize,
        rows: usize,
        problem: ProblemType,
    ) -> Result<Box<dyn Method>, Error> {
        let (layout, backend, encoder) = (engine.layout(), engine.backend(), &**engine.encoder());
        let head = || TrainedHead::new(layout, labels, &mut StdRng::seed_from_u64(self.seed), backend.device());
        let shape = |rank| self.low_rank(engine, labels, rank);
        Ok(match self.method {
            MethodName::Sora => {
                let (shape, sora) = (shape(self.rank)?, self.sora(self.hyperparameters(rows, problem, engine).lr));
                self.check_target(engine, &shape)?;
                Box::new(Sora::new(layout, &shape, sora, backend)?)
            }
            MethodName::Lora => Box::new(Lora::new(layout, &shape(self.rank)?, backend)?),
            MethodName::AdaLora => {
                // The target must fit, too.
                shape(self.rank)?;
                Box::new(AdaLora::new(layout, &shape(self.init_rank())?, self.adalora(), backend)?)
            }
            MethodName::DyLora => {
                let export_rank = self.export_rank.unwrap_or(self.rank);
                Box::new(DyLora::new(layout, &shape(self.rank)?, export_rank, backend)?)
            }
            MethodName::BitFit => {
                let bitfit = bitfit(encoder, head()?)?;
                if bitfit.report()?.parameters == 0 {
                    return wrong("--method bitfit", "a base with biases", "one without");
                }
                Box::new(bitfit)
            }
            MethodName::Adapter => {
                check::bottleneck_at_most(engine.config().hidden_size, self.bottleneck())?;
                Box::new(BottleneckAdapter::new(layout, self.bottleneck(), self.seed, head()?, backend)?)
            }
            MethodName::Full => Box::new(full(encoder, head()?)?),
        })
    }

    /// The settings of AdaLoRA's budget and penalty.
    fn adalora(&self) -> AdaLoraSettings {
        AdaLoraSettings {
            target_rank: self.rank,
            tinit: self.tinit(),
            tfinal: self.tfinal(),
            delta_t: self.delta_t,
            orth_reg_weight: self.orth_reg_weight(),
        }
    }

    /// The settings of the gates, in a run with the peak learning rate `lr`.
    fn sora(&self, lr: f64) -> SoraSettings {
        SoraSettings {
            gate: self.gate(),
            threshold: self.threshold(),
            gate_rate: self.gate_lr.map_or(1.0, |gate_lr| gate_lr / lr),
            sparse_lambda: self.sparse_lambda(),
            depth_bias: self.depth_bias,
        }
    }

    /// Checks that the target is at least one rank of an adapted linear and at most all ranks of all of them.
    fn check_target(&self, engine: &Engine, shape: &LowRankSettings) -> Result<(), Error> {
        let layout = engine.layout();
        let costs = shape.modules.iter().map(|&module| &layout.modules[module]);
        let costs: Vec<usize> = costs.map(|module| module.in_features + module.out_features).collect();
        let all = shape.rank * layout.layers * costs.iter().sum::<usize>();
        let least = costs.into_iter().min().unwrap_or(0);
        match self.threshold() {
            Threshold::Ratio(ratio) if ratio * (all as f64) < least as f64 => {
                let share = least as f64 / all as f64;
                wrong(
                    "--target-ratio",
                    format_args!("{share:.5} or more, which is one rank of the smallest linear"),
                    ratio,
                )
            }
            _ => check::target_params(least, all, self.target_params),
        }
    }

    /// The indices of the adapted modules.
    ///
    /// # Errors
    /// A name is not a module of the base.
    pub fn modules(&self, engine: &Engine) -> Result<Vec<usize>, Error> {
        let modules = &engine.layout().modules;
        let find = |name: &String| {
            let found =
                modules.iter().position(|m| m.name == name || m.label == name || m.label.replace(' ', "_") == *name);
            found.ok_or_else(|| {
                let known: Vec<_> = modules.iter().map(|m| m.name).collect();
                Error::Settings(format!(
                    "--target-modules: unknown module {name:?}; expected one of {}",
                    known.join(", ")
                ))
            })
        };
        if self.target_modules.is_empty() {
            return Ok((0..modules.len()).collect());
        }
        let mut found = self.target_modules.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        // A module that is named twice is adapted once.
        let mut seen = BTreeSet::new();
        found.retain(|&module| seen.insert(module));
        Ok(found)
    }

    /// The flag that gives the rank `rank` of the factors, for messages.
    fn rank_flag(&self, rank: usize) -> &'static str {
        match self.init_rank {
            _ if rank == self.rank => "--rank",
            Some(_) => "--init-rank",
            None => "--init-rank, by default one and a half times --rank",
        }
    }

    /// The shapes of low-rank factors.
    fn low_rank(&self, engine: &Engine, labels: usize, rank: usize) -> Result<LowRankSettings, Error> {
        let modules = self.modules(engine)?;
        let sizes = modules.iter().map(|&module| &engine.layout().modules[module]);
        let most = sizes.map(|module| module.in_features.min(module.out_features)).max().unwrap_or(0);
        check::rank_at_most(self.rank_flag(rank), most, rank)?;
        Ok(LowRankSettings { rank, alpha: self.alpha, modules, labels, seed: self.seed })
    }
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
