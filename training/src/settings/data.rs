//! The settings of how a task's data is read.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use polyrank::adapter::ProblemType;
use polyrank::base::{self, Dataset};
use polyrank::text::records::ColumnNames;
use serde::{Deserialize, Serialize};

use crate::data::{DataOptions, HoldOut};
use crate::error::{Error, wrong};

/// The default share of the training rows that is held out.
pub const VALIDATION_SPLIT: f64 = 0.1;

/// The names of the settings of a dataset on the hub. `--data` replaces them.
pub const DATASET: [&str; 3] = ["dataset", "dataset_config", "dataset_revision"];

/// How a task's data is read for a run. What was read is stored with the run's facts.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct DataSettings {
    /// Name of the task, in reports; a name of GLUE decides the metric, else the folder's does [default: the folder's name].
    #[arg(long, env = "POLYRANK_TRAIN_TASK", help_heading = "Data")]
    pub task: Option<String>,
    /// Column of the labels [default: label].
    #[arg(long, env = "POLYRANK_TRAIN_LABEL_COLUMN", value_name = "NAME", help_heading = "Data")]
    pub label_column: Option<String>,
    /// Column of the texts [default: sentence, sentence1 or text]; with this flag, second texts need --text-pair-column.
    #[arg(long, env = "POLYRANK_TRAIN_TEXT_COLUMN", value_name = "NAME", help_heading = "Data")]
    pub text_column: Option<String>,
    /// Column of the second texts [default: sentence2 or text_pair].
    #[arg(long, env = "POLYRANK_TRAIN_TEXT_PAIR_COLUMN", value_name = "NAME", help_heading = "Data")]
    pub text_pair_column: Option<String>,
    /// What the labels mean; several labels a row are lists or, with multi_label_classification, names joined by | [default: decided by
    /// the labels].
    #[arg(long, env = "POLYRANK_TRAIN_PROBLEM_TYPE", value_enum, help_heading = "Data")]
    pub problem_type: Option<ProblemType>,
    /// Share of train to hold out if there is no validation file.
    #[arg(long, env = "POLYRANK_TRAIN_VALIDATION_SPLIT", default_value_t = VALIDATION_SPLIT, help_heading = "Data")]
    pub validation_split: f64,
    /// Weights of the classes in the loss: balanced (by their number of rows), or NAME=W,NAME=W; with several labels a row, the weight
    /// applies where the label is present [default: all equal].
    #[arg(long, env = "POLYRANK_TRAIN_CLASS_WEIGHTS", value_name = "WEIGHTS", help_heading = "Data")]
    pub class_weights: Option<String>,
    /// Train on only the first N rows that are not held out [default: all].
    #[arg(long, env = "POLYRANK_TRAIN_MAX_TRAIN_SAMPLES", value_name = "N", help_heading = "Data")]
    pub max_train_samples: Option<NonZeroUsize>,
    /// Dataset on the hub, instead of --data; it is fetched into the cache once.
    #[arg(long, env = "POLYRANK_TRAIN_DATASET", value_name = "ORG/NAME", help_heading = "Data")]
    pub dataset: Option<String>,
    /// Configuration of the dataset, such as a task of GLUE, which also names the task [default: the only one].
    #[arg(long, env = "POLYRANK_TRAIN_DATASET_CONFIG", value_name = "NAME", help_heading = "Data")]
    pub dataset_config: Option<String>,
    /// Branch, tag or commit of the dataset [default: main].
    #[arg(long, env = "POLYRANK_TRAIN_DATASET_REVISION", value_name = "REVISION", help_heading = "Data")]
    pub dataset_revision: Option<String>,
}

/// The folder or file of a task: `data`, or that of the dataset, which is fetched into the cache if it is missing.
///
/// # Errors
/// Both or neither are given, or the hub does not provide the dataset.
pub fn source(data: Option<&Path>, dataset: Option<Dataset<'_>>) -> Result<PathBuf, Error> {
    match (data, dataset) {
        (Some(data), None) => Ok(data.to_owned()),
        (None, Some(dataset)) => Ok(base::dataset(&dataset)?),
        (Some(_), Some(_)) => Err(Error::Settings("expected one of --data and --dataset, found both".to_owned())),
        (None, None) => Err(Error::Settings("expected --data or --dataset, found neither".to_owned())),
    }
}

impl DataSettings {
    /// Checks that settings of a dataset come with one.
    ///
    /// # Errors
    /// There is no dataset.
    pub fn check(&self) -> Result<(), Error> {
        let of_dataset = [("--dataset-config", &self.dataset_config), ("--dataset-revision", &self.dataset_revision)];
        match of_dataset.into_iter().find_map(|(flag, value)| Some((flag, value.as_ref()?))) {
            Some((flag, value)) if self.dataset.is_none() => wrong(flag, "--dataset beside it", value),
            _ => Ok(()),
        }
    }

    /// The dataset on the hub, if one is given.
    #[must_use]
    pub fn of_hub(&self) -> Option<Dataset<'_>> {
        let (config, revision) = (self.dataset_config.as_deref(), self.dataset_revision.as_deref());
        self.dataset.as_deref().map(|id| Dataset { id, config, revision })
    }

    /// The options for reading the data of a run with the random seed `seed`.
    #[must_use]
    pub fn options(&self, seed: u64) -> DataOptions {
        DataOptions {
            task: self.task.clone().or_else(|| self.of_hub().map(|dataset| dataset.task().to_owned())),
            problem: self.problem_type,
            class_weights: self.class_weights.clone(),
            hold_out: Some(HoldOut { share: self.validation_split, seed }),
            columns: ColumnNames {
                label: self.label_column.clone(),
                text: self.text_column.clone(),
                pair: self.text_pair_column.clone(),
            },
            labels: None,
            max_train_samples: self.max_train_samples,
        }
    }
}
