//! Adapters: on disk as PEFT writes them, in memory, and in use.

mod lora;
mod ragged;
pub use lora::{Adapter, Delta, ProblemType};
pub use ragged::Mixed;
