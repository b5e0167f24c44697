//! The settings of a run, resolved from flags, a file and defaults.

use std::fmt::Display;

use polyrank::engine::Engine;
use polyrank::params::Precision;
use serde::{Deserialize, Serialize};

use crate::defaults::Schedule;
use crate::error::Error;
use crate::method::sora::{GateRule, Sora, SoraSettings, Threshold};
use crate::method::{Lora, LowRankSettings, Method};

/// The name of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// SoRA: LoRA with gates that become sparse and are pruned.
    Sora,
    /// Plain LoRA.
    Lora,
}

/// The default maximum number of tokens of a text.
pub const DEFAULT_LENGTH: usize = 128;

/// Everything that determines a run except the data and the base's weights. It is resolved from flags, a file and defaults, and written
/// to `run/config.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The method of training.
    pub method: MethodName,
    /// The base, as the user named it.
    pub model_id: String,
    /// Rank of each site before pruning.
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Names of the adapted modules, `query`, ... or `attention.self.query`.
    pub target_modules: Vec<String>,
    /// How gates start and learn.
    pub gate: GateRule,
    /// The share of parameters to keep, to which xi is steered.
    pub target_ratio: Option<f64>,
    /// A constant xi, instead of a share.
    pub xi: Option<f64>,
    /// `xi = rate * lambda`, instead of a share.
    pub lambda: Option<f64>,
    /// The authors' penalty in the loss, `sparse_lambda * sum|g| / gates`.
    pub sparse_lambda: f64,
    /// Passes over the training data.
    pub epochs: usize,
    /// The number of texts in a step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Peak learning rate of the gates; `None` means [`Self::lr`].
    #[serde(default)]
    pub gate_lr: Option<f64>,
    /// The share of the steps during which the learning rate rises.
    pub warmup: f64,
    /// Weight decay of the low-rank factors and the head.
    pub weight_decay: f64,
    /// The maximum global norm of the gradients.
    pub clip: f64,
    /// Dropout rate instead of the base's own rates.
    pub dropout: Option<f64>,
    /// The number of epochs before dropout starts (late dropout, Liu et al. 2023).
    #[serde(default)]
    pub dropout_after: usize,
    /// Precision of the base's matrix products.
    #[serde(default)]
    pub dtype: Precision,
    /// The maximum number of tokens of a text; by default [`DEFAULT_LENGTH`], or the base's maximum if that is smaller.
    pub max_length: Option<usize>,
    /// Random seed.
    pub seed: u64,
}

impl Settings {
    /// Epochs, batch size and learning rate.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule { epochs: self.epochs, batch_size: self.batch_size, lr: self.lr }
    }

    /// The method with fresh variables, for the base of `engine`. Only this function knows all methods by name.
    ///
    /// # Errors
    /// As [`Self::modules`]; or the rank is too large for the adapted modules.
    pub fn method(&self, engine: &Engine, labels: usize) -> Result<Box<dyn Method>, Error> {
        let (layout, device) = (engine.layout(), engine.device());
        let shape = self.low_rank(engine, labels)?;
        Ok(match self.method {
            MethodName::Sora => Box::new(Sora::new(layout, &shape, self.sora(), device)?),
            MethodName::Lora => Box::new(Lora::new(layout, &shape, device)?),
        })
    }

    fn sora(&self) -> SoraSettings {
        let threshold = match (self.xi, self.lambda, self.target_ratio) {
            (Some(xi), ..) => Threshold::Xi(xi),
            (_, Some(lambda), _) => Threshold::Lambda(lambda),
            (.., ratio) => Threshold::Ratio(ratio.unwrap_or(1.0)),
        };
        SoraSettings {
            gate: self.gate,
            threshold,
            gate_rate: self.gate_lr.map_or(1.0, |gate_lr| gate_lr / self.lr),
            sparse_lambda: self.sparse_lambda,
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
        self.target_modules.iter().map(find).collect()
    }

    /// The maximum number of tokens of a text on this base.
    #[must_use]
    pub fn longest(&self, engine: &Engine) -> usize {
        self.max_length.unwrap_or_else(|| engine.max_length().min(DEFAULT_LENGTH))
    }

    /// The shapes of low-rank factors.
    fn low_rank(&self, engine: &Engine, labels: usize) -> Result<LowRankSettings, Error> {
        let modules = self.modules(engine)?;
        let sizes = modules.iter().map(|&module| &engine.layout().modules[module]);
        let most = sizes.map(|module| module.in_features.min(module.out_features)).max().unwrap_or(0);
        if self.rank > most {
            return wrong("--rank", format_args!("at most {most}, the smaller side of the adapted linears"), self.rank);
        }
        Ok(LowRankSettings { rank: self.rank, alpha: self.alpha, modules, labels, seed: self.seed })
    }

    /// Checks the values that do not depend on the base.
    ///
    /// # Errors
    /// A value is invalid.
    pub fn check(&self) -> Result<(), Error> {
        let counts =
            [("--rank", Some(self.rank)), ("--epochs", Some(self.epochs)), ("--batch-size", Some(self.batch_size))];
        for (flag, value) in counts.into_iter().chain([("--max-length", self.max_length)]) {
            if value == Some(0) {
                return wrong(flag, "1 or more", 0);
            }
        }
        let positive = [("--lr", self.lr), ("--alpha", self.alpha), ("--clip", self.clip)];
        if let Some((flag, value)) = positive.into_iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
            return wrong(flag, "a positive number", value);
        }
        let sizes = [("--weight-decay", self.weight_decay), ("--sparse-lambda", self.sparse_lambda)];
        let thresholds = [("--xi", self.xi), ("--lambda", self.lambda), ("--gate-lr", self.gate_lr)];
        let sizes = sizes.map(|(flag, value)| (flag, Some(value))).into_iter().chain(thresholds);
        for (flag, value) in sizes.filter_map(|(flag, value)| Some((flag, value?))) {
            if !(value >= 0.0 && value.is_finite()) {
                return wrong(flag, "0 or a positive number", value);
            }
        }
        if self.gate == GateRule::Adaptive
            && let Some(flag) =
                [("--xi", self.xi), ("--lambda", self.lambda)].into_iter().find_map(|(flag, xi)| xi.map(|_| flag))
        {
            return wrong("--gate adaptive", "--target-ratio, which says how many ranks to keep", flag);
        }
        match (self.target_ratio, self.dropout, self.warmup) {
            (Some(ratio), ..) if !(ratio > 0.0 && ratio <= 1.0) => {
                wrong("--target-ratio", "above 0 and at most 1", ratio)
            }
            (_, Some(p), _) if !(0.0..1.0).contains(&p) => wrong("--dropout", "0 or more and below 1", p),
            (.., warmup) if !(0.0..=1.0).contains(&warmup) => wrong("--warmup", "from 0 to 1", warmup),
            _ => Ok(()),
        }
    }
}

fn wrong<T>(flag: &str, expected: impl Display, found: impl Display) -> Result<T, Error> {
    Err(Error::Settings(format!("{flag}: expected {expected}, found {found}")))
}
