//! From waiting requests to batches.
//!
//! | file | idea |
//! | --- | --- |
//! | `admission` | what is accepted: room in the queue, an answer before the deadline, and when to try again otherwise; pure |
//! | `policy` | what runs next; pure |
//! | `reply` | a request's answer, put together from its texts' logits |
//! | `queue` | the requests that wait, under one lock |
//! | `worker` | the one thread that owns the forward pass |
//!
//! The unit is the request: it is accepted whole, answered once, and withdrawn when its client goes away. A batch takes texts off
//! the front of the queue, whatever their adapters, and may take a part of a large request.

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
