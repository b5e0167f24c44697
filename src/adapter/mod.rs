//! Adapters: on disk as PEFT writes them, in memory, and in use.

mod config;
mod error;
mod files;
mod labels;
mod lora;
mod pattern;
mod peek;
mod ragged;
mod read;
mod registry;
mod write;

pub use error::{AdapterError, BaseNames};
#[cfg(fuzzing)]
pub(crate) use files::{Bytes, Files};
pub use lora::{Adapter, Delta, ProblemType, Ranks};
pub use peek::{layout_of, peek};
pub use ragged::Mixed;
#[cfg(fuzzing)]
pub(crate) use read::parse;
pub use read::{read, read_over};
pub use registry::{Loaded, Registry, RegistryError, Source, Status, Tier};
pub use write::write;
