//! polyrank (map to be written)

pub mod adapter;
pub mod encoder;
pub mod error;
pub mod scheduler;
pub mod score;
#[cfg(feature = "server")]
pub mod server;
