//! Sweeps: runs of `train` for tasks x methods x ranks x seeds, described by one TOML file. Each run is a process of its own, so that
//! the crash of one is one failed run.
//!
//! | module | idea |
//! | --- | --- |
//! | `spec` | the file, and its settings in layers: for all runs, for a method, for a task, for a variant |
//! | `expand` | the runs that follow from it, each with its name and its command |
//! | `data` | the data of the runs, each file read once |
//! | `flags` | settings as flags of `train`, known from their declaration |
//! | `results` | `results.jsonl`, with a line for each finished run |
//! | `runner` | runs processes within a number of cores |
//! | `process` | one process: how it starts, how it is asked to stop, and why it failed |
//! | `screen` | the live table |
//!
//! ```toml
//! data_root = "data/glue"              # the folder of the tasks
//! output = "runs/table1"
//! tasks = ["mrpc", "rte"]
//! methods = ["sora", "lora"]
//! ranks = [8]
//! seeds = [0, 21, 42]
//! lr = [5e-4, 1e-3]                    # any setting of train; several values are several runs
//!
//! [method.sora]
//! target_ratio = 0.65
//!
//! [task.rte]
//! epochs = 20
//! ```

mod data;
mod expand;
mod flags;
mod process;
mod results;
mod runner;
mod screen;
mod spec;

pub use self::expand::{Job, expand};
pub use self::runner::{Capacity, Summary, check_length, run};
pub use self::spec::Spec;
