//! The engine on a GPU, held to itself. `tests/gpu/check.sh` runs it beside the peers and makes one table of all:
//!
//! `gpu --model-id DIR [--device cuda|cpu] [--dtype bf16] [--texts 256] [--length 128|sst2] [ROW...]`
//!
//! It prints one JSON object for each measurement. The base has random weights in a known shape, texts are random ids, adapters are
//! random. What is compared runs in turn, round after round; medians over the rounds are told. A time includes everything from the
//! ids of texts in the host's memory to their logits there. On a small CPU, small numbers rehearse every row.
#![allow(clippy::print_stdout, reason = "the measurements are what this program is for")]

mod adapters;
mod attention;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "the benches share these tools, and this one uses few of them")]
mod common;
mod delta;
mod forward;
mod memory;
mod options;
mod rounds;

use clap::Parser;

use common::Failure;
use options::{Options, World};

/// A row by name.
type Row = (&'static str, fn(&World) -> Result<(), Failure>);

const ROWS: [Row; 5] = [
    ("mixed", forward::mixed),
    ("latency", forward::latency),
    ("delta", delta::measure),
    ("attention", attention::measure),
    ("many", forward::many),
];

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if let Some(name) = options.rows.iter().find(|name| ROWS.iter().all(|(row, _)| row != name)) {
        return Err(format!("no row {name}; there are {}", ROWS.map(|(row, _)| row).join(", ")).into());
    }
    let world = World::open(options)?;
    for (name, measure) in ROWS {
        let asked = &world.options.rows;
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            measure(&world)?;
        }
    }
    Ok(())
}
