//! Adapters: PEFT's files on disk, and adapters as values in memory.

mod config;
mod describe;
mod error;
mod files;
mod labels;
mod pattern;
mod peek;
mod placed;
mod read;
mod value;
mod write;

pub use describe::describe_folder;
pub use error::{AdapterError, BaseNames};
#[cfg(any(test, fuzzing))]
pub(crate) use files::Bytes;
pub use files::{Files, NAMES, OpenFiles};
pub use labels::{LONGEST_NAMES, MOST_LABELS, classifier_config, read_labels};
pub use peek::{Summary, layout_of, peek, summary};
#[cfg(any(test, fuzzing))]
pub(crate) use read::parse;
pub use read::{over, read};
pub use value::{Adapter, AdapterInfo, AdapterWeights, Change, ProblemType, Ranks};
pub use write::{replace, write};
