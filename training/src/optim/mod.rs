//! The optimiser: steps as pure functions of parameter, gradient and state, on whatever device the tensors are.
//!
//! It knows variables and their groups, and nothing of the methods that own them ([`crate::method`]).

mod adamw;
mod clip;
mod host;
mod optimizer;
mod schedule;

pub use adamw::{AdamW, Moments};
pub use clip::clip;
pub use optimizer::{Descent, Group, Optimizer, Rule, Step, Variable};
pub use schedule::linear_rate;
