//! `polyrank-training` trains adapters for `polyrank`, prunes them exactly and writes them as PEFT checkpoints.
//!
//! | module | idea |
//! | --- | --- |
//! | [`data`] | a task's folder or file: TSV, CSV, JSON or Parquet, labels, splits |
//! | [`metric`] | GLUE's metrics |
//! | [`optim`] | the optimiser over variables and their groups: AdamW, clipping, the learning rate |
//! | [`method`] | the trait [`method::Method`] and its methods, one file each: SoRA, LoRA |
//! | [`defaults`] | epochs, batch size and rate where the user says nothing |
//! | [`settings`] | the settings of a run, resolved, and the method that they name |
//! | [`run`] | a run's folder: settings, facts of its data and base, the log |
//! | [`checkpoint`] | a run's state on disk, whole or not at all |
//! | [`export`] | a method's variables, or a checkpoint, as an adapter |
//! | [`trainer`] | one run of any method: epochs, evaluation, the best checkpoint, the log |
//! | [`evaluate`] | an adapter's metrics, by the path that serves it |
//! | [`error`] | every error of training, with its operands |
//!
//! The runtime never depends on this crate: SoRA's gate exists here only, and pruning folds it away.

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
pub mod settings;
pub mod trainer;
