//! polyrank (map to be written)

pub mod adapter;
pub mod encoder;
pub mod kernel;
pub mod model;
pub mod tokenize;
