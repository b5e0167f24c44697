//! The optimiser. Its steps are pure functions of parameter, gradient and state, on the device of the tensors. On the CPU, it steps one
//! variable after another in loops over host memory. Elsewhere, it joins the variables that step alike, and never waits for the device.
//!
//! It handles variables and their groups, and does not depend on the methods that own them ([`crate::method`]).

mod adamw;
mod clip;
mod flat;
mod host;
mod optimizer;
mod rate;

pub use adamw::{AdamW, Moments};
pub(crate) use host::elements;
pub use optimizer::{Descent, Group, Optimizer, Rule, Step, Variable};
pub use rate::linear_rate;
