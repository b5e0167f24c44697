//! Resolves settings from flags, then a file, then defaults.

use std::fs;
use std::path::Path;

use clap::{Args, ValueEnum};
use polyrank::adapter::ProblemType;
use polyrank::params::Precision;
use polyrank::text::records::ColumnNames;
use polyrank_training::data::{DataOptions, HoldOut};
use polyrank_training::defaults::Schedule;
use polyrank_training::error::Error;
use polyrank_training::method::sora::GateRule;
use polyrank_training::settings::{MethodName, Settings};
use serde::{Deserialize, Serialize};

/// The headings of `--help`.
pub(super) const DATA: &str = "Data";
pub(super) const METHOD: &str = "Method";
pub(super) const OPTIMISER: &str = "Optimiser";
pub(super) const DEVICE: &str = "Device";

/// The default share of the training rows that is held out.
pub(super) const VALIDATION_SPLIT: f64 = 0.1;

/// The settings that may be given by a flag or by a file.
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Flags {
    /// Method of training [default: sora].
    #[arg(long, help_heading = METHOD)]
    method: Option<MethodName>,
    /// The base: a folder, a hub id or default [default: default].
    #[arg(long, value_name = "M", help_heading = METHOD)]
    model_id: Option<String>,
    /// Name of the task, which decides the metric [default: the folder's name].
    #[arg(long, help_heading = DATA)]
    task: Option<String>,
    /// Column of the labels [default: label].
    #[arg(long, value_name = "NAME", help_heading = DATA)]
    label_column: Option<String>,
    /// Column of the texts [default: sentence, sentence1 or text]; with this flag, second texts need --text-pair-column.
    #[arg(long, value_name = "NAME", help_heading = DATA)]
    text_column: Option<String>,
    /// Column of the second texts [default: sentence2 or text_pair].
    #[arg(long, value_name = "NAME", help_heading = DATA)]
    text_pair_column: Option<String>,
    /// What the labels mean [default: decided by the labels].
    #[arg(long, value_enum, help_heading = DATA)]
    problem_type: Option<Problem>,
    /// Rank of each site before pruning [default: 8].
    #[arg(long, help_heading = METHOD)]
    rank: Option<usize>,
    /// The scale is alpha / rank [default: 16].
    #[arg(long, help_heading = METHOD)]
    alpha: Option<f64>,
    /// Adapted modules, comma-separated [default: all linears of a layer].
    #[arg(long, value_delimiter = ',', help_heading = METHOD)]
    target_modules: Option<Vec<String>>,
    /// How gates learn: adaptive starts them equal and drops the ranks that reduce the loss least; paper and authors start them at
    /// random and shrink all of them alike, after a plain gradient step or Adam's step [default: adaptive; authors with --xi or --lambda].
    #[arg(long, help_heading = METHOD)]
    gate: Option<GateRule>,
    /// Share of the adapter's parameters to keep [default: 0.65].
    #[arg(long, conflicts_with_all = ["xi", "lambda"], help_heading = METHOD)]
    target_ratio: Option<f64>,
    /// Constant threshold, instead of a ratio.
    #[arg(long, conflicts_with = "lambda", help_heading = METHOD)]
    xi: Option<f64>,
    /// Threshold as learning rate times lambda, instead of a ratio.
    #[arg(long, help_heading = METHOD)]
    lambda: Option<f64>,
    /// Weight of the authors' penalty on gates in the loss [default: 10 with --xi and authors' gates, else 0].
    #[arg(long, help_heading = METHOD)]
    sparse_lambda: Option<f64>,
    /// Passes over the training data [default: as many as give about 1,000 steps, from 3 to 20].
    #[arg(long, help_heading = OPTIMISER)]
    epochs: Option<usize>,
    /// Number of texts in a step [default: 16 below 3,000 rows, else 32].
    #[arg(long, help_heading = OPTIMISER)]
    batch_size: Option<usize>,
    /// Peak learning rate [default: by the rows and the base's width; 1e-3 for many rows and a width of 384].
    #[arg(long, help_heading = OPTIMISER)]
    lr: Option<f64>,
    /// Peak learning rate of the gates [default: that of --lr].
    #[arg(long, help_heading = OPTIMISER)]
    gate_lr: Option<f64>,
    /// Share of the steps during which the learning rate rises [default: 0.06].
    #[arg(long, help_heading = OPTIMISER)]
    warmup: Option<f64>,
    /// Weight decay of matrices and head, but not of gates [default: 0.01].
    #[arg(long, help_heading = OPTIMISER)]
    weight_decay: Option<f64>,
    /// Maximum norm of the gradients [default: 1].
    #[arg(long, help_heading = OPTIMISER)]
    clip: Option<f64>,
    /// Dropout rate [default: the base's own rates].
    #[arg(long, help_heading = OPTIMISER)]
    dropout: Option<f64>,
    /// Number of epochs before dropout starts [default: 1, or 0 for a single epoch].
    #[arg(long, value_name = "EPOCHS", help_heading = OPTIMISER)]
    dropout_after: Option<usize>,
    /// Precision of the base's matrix products; train in the precision that you serve in [default: f32].
    #[arg(long, value_enum, help_heading = DEVICE)]
    dtype: Option<Precision>,
    /// Maximum number of tokens of a text [default: 128, or the base's maximum if that is smaller].
    #[arg(long, help_heading = DATA)]
    max_length: Option<usize>,
    /// Random seed [default: 0].
    #[arg(long, help_heading = OPTIMISER)]
    seed: Option<u64>,
    /// Share of train to hold out if there is no validation file [default: 0.1].
    #[arg(long, help_heading = DATA)]
    validation_split: Option<f64>,
}

#[derive(Debug, Clone, Copy, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Problem {
    #[value(name = "single_label_classification")]
    SingleLabelClassification,
    #[value(name = "regression")]
    Regression,
    /// Multi-label training is not supported yet, so that this is refused.
    #[value(name = "multi_label_classification", hide = true)]
    MultiLabelClassification,
}

impl From<Problem> for ProblemType {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::SingleLabelClassification => Self::SingleLabelClassification,
            Problem::Regression => Self::Regression,
            Problem::MultiLabelClassification => Self::MultiLabelClassification,
        }
    }
}

impl Flags {
    /// These flags, completed with the settings in the TOML file `path`.
    pub(super) fn over(&self, path: Option<&Path>) -> Result<Self, Error> {
        let file: Self = match path {
            None => Self::default(),
            Some(path) => {
                let io = |source| Error::Io { path: path.to_owned(), source };
                let text = fs::read_to_string(path).map_err(io)?;
                let malformed = |error: toml::de::Error| {
                    let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
                    Error::Malformed { path: path.to_owned(), reason: format!("line {line}: {}", error.message()) }
                };
                toml::from_str(&text).map_err(malformed)?
            }
        };
        self.check_gate(self.method.or(file.method))?;
        let flags = self.clone();
        // A threshold by flag replaces any kind of threshold in the file.
        let by_flag = flags.target_ratio.is_some() || flags.xi.is_some() || flags.lambda.is_some();
        let thresholds = if by_flag {
            (flags.target_ratio, flags.xi, flags.lambda)
        } else {
            (file.target_ratio, file.xi, file.lambda)
        };
        let (target_ratio, xi, lambda) = thresholds;
        if [target_ratio, xi, lambda].into_iter().flatten().count() > 1 {
            return Err(Error::Settings("only one of target_ratio, xi and lambda may be given".to_owned()));
        }
        Ok(Self {
            method: flags.method.or(file.method),
            model_id: flags.model_id.or(file.model_id),
            task: flags.task.or(file.task),
            label_column: flags.label_column.or(file.label_column),
            text_column: flags.text_column.or(file.text_column),
            text_pair_column: flags.text_pair_column.or(file.text_pair_column),
            problem_type: flags.problem_type.or(file.problem_type),
            rank: flags.rank.or(file.rank),
            alpha: flags.alpha.or(file.alpha),
            target_modules: flags.target_modules.or(file.target_modules),
            gate: flags.gate.or(file.gate),
            target_ratio,
            xi,
            lambda,
            sparse_lambda: flags.sparse_lambda.or(file.sparse_lambda),
            epochs: flags.epochs.or(file.epochs),
            batch_size: flags.batch_size.or(file.batch_size),
            lr: flags.lr.or(file.lr),
            gate_lr: flags.gate_lr.or(file.gate_lr),
            warmup: flags.warmup.or(file.warmup),
            weight_decay: flags.weight_decay.or(file.weight_decay),
            clip: flags.clip.or(file.clip),
            dropout: flags.dropout.or(file.dropout),
            dropout_after: flags.dropout_after.or(file.dropout_after),
            dtype: flags.dtype.or(file.dtype),
            max_length: flags.max_length.or(file.max_length),
            seed: flags.seed.or(file.seed),
            validation_split: flags.validation_split.or(file.validation_split),
        })
    }

    /// Refuses a flag about gates if the method has no gates. Such settings in a file are ignored, because the file may serve several runs.
    fn check_gate(&self, method: Option<MethodName>) -> Result<(), Error> {
        let gated = [
            ("--gate", self.gate.is_some()),
            ("--target-ratio", self.target_ratio.is_some()),
            ("--xi", self.xi.is_some()),
            ("--lambda", self.lambda.is_some()),
            ("--sparse-lambda", self.sparse_lambda.is_some()),
            ("--gate-lr", self.gate_lr.is_some()),
        ];
        match gated.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) if method == Some(MethodName::Lora) => {
                Err(Error::Settings(format!("{flag}: expected with the method sora, found lora, which has no gates")))
            }
            _ => Ok(()),
        }
    }

    /// The settings, with defaults for `rows` rows of training data and a base of width `hidden`.
    pub(super) fn settings(&self, rows: usize, hidden: usize) -> Settings {
        let schedule = Schedule::new(rows, hidden, self.batch_size);
        let method = self.method.unwrap_or(MethodName::Sora);
        let gated = method == MethodName::Sora;
        let epochs = self.epochs.unwrap_or(schedule.epochs);
        let by_hand = self.xi.is_some() || self.lambda.is_some();
        let gate = self.gate.unwrap_or(if by_hand { GateRule::Authors } else { GateRule::Adaptive });
        let penalty = if self.xi.is_some() && gate == GateRule::Authors { 10.0 } else { 0.0 };
        Settings {
            method,
            model_id: self.model_id.clone().unwrap_or_else(|| "default".to_owned()),
            rank: self.rank.unwrap_or(8),
            alpha: self.alpha.unwrap_or(16.0),
            target_modules: self.target_modules.clone().unwrap_or_default(),
            gate,
            target_ratio: (gated && !by_hand).then(|| self.target_ratio.unwrap_or(0.65)),
            xi: self.xi.filter(|_| gated),
            lambda: self.lambda.filter(|_| gated),
            sparse_lambda: if gated { self.sparse_lambda.unwrap_or(penalty) } else { 0.0 },
            epochs,
            batch_size: schedule.batch_size,
            lr: self.lr.unwrap_or(schedule.lr),
            gate_lr: self.gate_lr.filter(|_| gated),
            warmup: self.warmup.unwrap_or(0.06),
            weight_decay: self.weight_decay.unwrap_or(0.01),
            clip: self.clip.unwrap_or(1.0),
            dropout: self.dropout,
            // With dropout from the first step, some tasks (CoLA) predict only the majority class for several epochs.
            dropout_after: self.dropout_after.unwrap_or(usize::from(epochs > 1)),
            dtype: self.dtype.unwrap_or_default(),
            max_length: self.max_length,
            seed: self.seed.unwrap_or(0),
        }
    }

    /// The options for reading the task's data.
    pub(super) fn data(&self) -> DataOptions {
        DataOptions {
            task: self.task.clone(),
            problem: self.problem_type.map(Into::into),
            hold_out: Some(HoldOut {
                share: self.validation_split.unwrap_or(VALIDATION_SPLIT),
                seed: self.seed.unwrap_or(0),
            }),
            columns: ColumnNames {
                label: self.label_column.clone(),
                text: self.text_column.clone(),
                pair: self.text_pair_column.clone(),
            },
            labels: None,
        }
    }
}
