//! From waiting requests to batches.
//!
//! [`take`] is the policy, pure. [`Scheduler`] is a bounded queue and the one thread that owns the forward pass: texts of all
//! adapters wait in one line, and a batch is what stands at its front, whatever the adapters.

mod batch;
#[cfg(feature = "server")]
mod queue;
#[cfg(feature = "server")]
mod worker;

pub use batch::take;
#[cfg(feature = "server")]
pub use queue::{Answer, Failed, Refused};
#[cfg(feature = "server")]
pub use worker::{Limits, Scheduler};
