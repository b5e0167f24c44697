//! Collects waiting requests into batches, and runs these one after the other.
//!
//! | file | idea |
//! | --- | --- |
//! | `admission` | decides which requests are accepted: the queue has room, no adapter takes more than its share, and the answer comes before the deadline (pure functions) |
//! | `charge` | the rule of what a request is charged, in tokens (pure functions) |
//! | `policy` | decides which texts run next, fairly between adapters; states the bounds (pure functions) |
//! | `arrivals` | how often adapters had requests lately, and how long a batch may be beside them |
//! | `front` | batches for commands that classify without a server (pure functions) |
//! | `reply` | collects the logits of a request's texts into its answer |
//! | `queue` | the waiting requests, under one lock |
//! | `pipeline` | how many batches are begun before the first of them has run |
//! | `worker` | the thread that runs the forward pass |
//! | `progress` | what the worker reports to the watchdog |
//! | `watchdog` | notices a forward pass that stands still |
//! | `stacks` | logs the stacks of all threads |
//!
//! A request is accepted whole, answered once, and withdrawn when its client goes away. It waits with the other requests of its
//! adapter; a request of several adapters waits where the most tokens wait. A batch takes texts of all adapters in turns, and may take
//! only a part of a large request, but equal texts of a request run together, unless they cost more than a batch may have.

#[cfg(feature = "server")]
mod admission;
#[cfg(feature = "server")]
mod arrivals;
#[cfg(feature = "server")]
mod charge;
mod front;
#[cfg(feature = "server")]
mod pipeline;
#[cfg(feature = "server")]
mod policy;
#[cfg(feature = "server")]
mod progress;
#[cfg(feature = "server")]
mod queue;
#[cfg(feature = "server")]
mod reply;
#[cfg(feature = "server")]
mod stacks;
#[cfg(feature = "server")]
mod watchdog;
#[cfg(feature = "server")]
mod worker;

#[cfg(feature = "server")]
pub use admission::Refused;
pub use front::take;
#[cfg(feature = "server")]
pub use pipeline::Pipeline;
#[cfg(feature = "server")]
pub use queue::Request;
#[cfg(feature = "server")]
pub use reply::{Answer, Answered, Failed};
#[cfg(feature = "server")]
pub use watchdog::StallTimeouts;
#[cfg(feature = "server")]
pub use worker::{BatchReport, Limits, Scheduler};
