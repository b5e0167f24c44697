//! `polyrank-training` trains adapters for `polyrank`, prunes them exactly and writes them as PEFT checkpoints.
//!
//! | module | idea |
//! | --- | --- |
//! | [`data`] | a task's data: a folder or a file, in TSV, CSV, JSON or Parquet; labels and splits |
//! | [`metric`] | the metrics of GLUE's tasks and of several labels a row |
//! | [`loss`] | the loss of a task |
//! | [`optim`] | the optimiser over variables and their groups: AdamW, clipping, the learning rate |
//! | [`method`] | the trait [`method::Method`] and its methods, one file each |
//! | [`defaults`] | the default epochs, batch size and learning rate |
//! | [`settings`] | the one declaration of each setting, its limits, and the method that the settings name |
//! | [`run`] | a run's folder: settings, facts of its data and base, the logs |
//! | [`checkpoint`] | a run's state on disk after any step, written atomically |
//! | [`export`] | makes an adapter from a method's variables or from a checkpoint |
//! | [`stepper`] | one step of any method on one batch, or on several |
//! | `parts` | divides a batch into micro-batches of nearly equal work |
//! | [`trainer`] | one run of any method: epochs, evaluation, the best checkpoint, the logs |
//! | [`schedule`] | SoRA's Algorithm 1: the thresholds of its stages, and what is left after each |
//! | [`evaluate`] | an adapter's metrics, computed with the forward pass of serving |
//! | [`sweep`] | runs tasks x methods x ranks x seeds, each run a process of its own |
//! | [`report`] | reads finished runs, and writes tables and figures |
//! | [`fine_tuned`] | a fine-tuned `transformers` classifier: encoder, head and labels |
//! | [`extract`] | a fine-tuned classifier as an adapter of its base |
//! | `json_lines` | reads and writes files with one JSON object a line |
//! | [`error`] | the errors of training |
//!
//! The runtime never depends on this crate. SoRA's gates exist here only, because pruning folds them into the weights.

pub mod checkpoint;
pub mod data;
pub mod defaults;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod extract;
pub mod fine_tuned;
mod json_lines;
pub mod loss;
pub mod method;
pub mod metric;
pub mod optim;
mod parts;
pub mod report;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod stepper;
pub mod sweep;
pub mod toml_file;
pub mod trainer;
