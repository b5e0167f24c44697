//! Adapters: on disk as PEFT writes them, in memory, and in use.

mod lora;
pub use lora::{Adapter, Delta, ProblemType};
