//! Collects waiting requests into batches, and runs these on one thread.
//!
//! | file | idea |
//! | --- | --- |
//! | `admission` | decides which requests are accepted: the queue has room, and the answer comes before the deadline (pure functions) |
//! | `policy` | decides which texts run next (pure functions) |
//! | `reply` | collects the logits of a request's texts into its answer |
//! | `queue` | the waiting requests, under one lock |
//! | `worker` | the one thread that runs the forward pass |
//!
//! A request is accepted whole, answered once, and withdrawn when its client goes away. A batch takes texts from the front of the
//! queue, whatever their adapters are, and may take only a part of a large request.

#[cfg(feature = "server")]
mod admission;
mod policy;
#[cfg(feature = "server")]
mod queue;
#[cfg(feature = "server")]
mod reply;
#[cfg(feature = "server")]
mod worker;

#[cfg(feature = "server")]
pub use admission::Refused;
pub use policy::take;
#[cfg(feature = "server")]
pub use queue::Request;
#[cfg(feature = "server")]
pub use reply::{Answer, Failed};
#[cfg(feature = "server")]
pub use worker::{Limits, Scheduler};
