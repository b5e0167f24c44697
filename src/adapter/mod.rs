//! Adapters: on disk as PEFT writes them, in memory, and in use.

mod lora;
mod ragged;
mod registry;
pub use lora::{Adapter, Delta, ProblemType};
pub use ragged::Mixed;
pub use registry::{FirstSite, Loaded, Registry, RegistryError, Source, Status, Tier};
