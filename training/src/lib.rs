//! `polyrank-training` trains adapters for `polyrank`, prunes them exactly and writes them as PEFT checkpoints.
//!
//! | module | idea |
//! | --- | --- |
//! | [`data`] | a task's folder or file: TSV, CSV, JSON or Parquet, labels, splits |
//! | [`metric`] | GLUE's metrics |
//! | [`method`] | what is trained, at the runtime's seam: SoRA, LoRA, and full fine-tuning and BitFit as proofs of the seam |
//! | [`optim`] | AdamW, the proximal steps of gates and their folding, clipping, the learning rate |
//! | [`controller`] | steers a SoRA run towards a ratio of parameters kept |
//! | [`defaults`] | epochs, batch size and rate where the user says nothing |
//! | [`settings`] | what decides a run, resolved |
//! | [`run`] | a run's folder: settings, facts of its data and base, the log |
//! | [`trainer`] | one run: epochs, evaluation, the best checkpoint, the log |
//! | [`checkpoint`] | a run's state on disk, whole or not at all |
//! | [`evaluate`] | an adapter's metrics, by the path that serves it |
//! | [`error`] | every error of training, with its operands |
//!
//! The runtime never depends on this crate: SoRA's gate exists here only, and pruning folds it away.

pub mod checkpoint;
pub mod controller;
pub mod data;
pub mod defaults;
pub mod error;
pub mod evaluate;
pub mod method;
pub mod metric;
pub mod optim;
pub mod run;
pub mod settings;
pub mod trainer;
