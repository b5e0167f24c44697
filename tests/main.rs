//! The runtime's integration tests, one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod model;
mod tokenize;
