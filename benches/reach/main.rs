//! The engine held to itself and to the machine, a table each:
//!
//! `cargo bench --bench reach -- [forward] [distinct] [prefix] [lengths] [fit]`, all of them without a name.
//!
//! The base is what `POLYRANK_MODEL_ID` names, or the default one; texts are random ids, adapters random. What is compared runs in
//! turn, round after round, so that a noisy machine slows all alike; medians over the rounds are told.
#![allow(clippy::print_stdout, reason = "the tables are what this program is for")]

mod base;
#[path = "../common/mod.rs"]
mod common;
mod distinct;
mod fit;
mod forward;
mod lengths;
mod prefix;
mod rounds;

use common::Failure;

/// A table by name.
type Table = (&'static str, fn() -> Result<(), Failure>);

const TABLES: [Table; 5] = [
    ("forward", forward::print),
    ("distinct", distinct::print),
    ("prefix", prefix::print),
    ("lengths", lengths::print),
    ("fit", fit::print),
];

fn main() -> Result<(), Failure> {
    // Cargo itself adds `--bench`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if let Some(name) = asked.iter().find(|name| TABLES.iter().all(|(table, _)| table != name)) {
        return Err(format!("no table {name}; there are {}", TABLES.map(|(table, _)| table).join(", ")).into());
    }
    for (name, print) in TABLES {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            print()?;
        }
    }
    Ok(())
}
