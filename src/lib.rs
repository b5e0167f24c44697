//! polyrank (map to be written)

pub mod adapter;
pub mod encoder;
