//! `polyrank-training` trains adapters for `polyrank`, prunes them exactly and writes them as PEFT checkpoints.
//!
//! | module | idea |
//! | --- | --- |
//! | [`data`] | a task's data: a folder or a file, in TSV, CSV, JSON or Parquet; labels and splits |
//! | [`metric`] | GLUE's metrics |
//! | [`optim`] | the optimiser over variables and their groups: AdamW, clipping, the learning rate |
//! | [`method`] | the trait [`method::Method`] and its methods, one file each: SoRA, LoRA |
//! | [`defaults`] | the default epochs, batch size and learning rate |
//! | [`settings`] | the one declaration of each setting, its limits, and the method that the settings name |
//! | [`run`] | a run's folder: settings, facts of its data and base, the log |
//! | [`checkpoint`] | a run's state on disk, written atomically |
//! | [`export`] | makes an adapter from a method's variables or from a checkpoint |
//! | [`stepper`] | one step of any method on one batch |
//! | [`trainer`] | one run of any method: epochs, evaluation, the best checkpoint, the log |
//! | [`schedule`] | SoRA's Algorithm 1: the thresholds of its stages, and what is left after each |
//! | [`evaluate`] | an adapter's metrics, computed with the forward pass of serving |
//! | [`error`] | the errors of training |
//!
//! The runtime never depends on this crate. SoRA's gates exist here only, because pruning folds them into the weights.

pub mod checkpoint;
pub mod data;
pub mod defaults;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod method;
pub mod metric;
pub mod optim;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod stepper;
pub mod trainer;
