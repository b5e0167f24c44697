//! The runtime's integration tests, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::type_complexity, missing_docs)]

mod adapter;
mod cli;
mod fit;
mod floors;
mod legacy;
mod model;
mod parity;
mod prefix;
mod registry;
mod scheduler;
mod serve_process;
mod server;
mod tokenize;
