//! The running server held to the engine and to itself, a row of one Markdown table each:
//!
//! `cargo bench --bench serving -- [OPTIONS] [ROW...]`, every row without a name, except the soak, which has to be named.
//!
//! Each row starts the binary `polyrank serve` on a free port, with random adapters of fixed seeds, and asks it over HTTP. One thread
//! asks for all connections, because it shares the cores with the server; the table tells the share of a core that it took. What is
//! compared runs in turn, slice after slice, so that a noisy machine slows all alike. Beside a 99th percentile stands a control: the
//! ratio of two sets of slices of the same kind.
//!
//! The soak looks for hangs as well. Many short lives of a server find more of them than one long life, and an allocator that purges
//! often more than one that does not: `for i in $(seq 100); do MIMALLOC_PURGE_DELAY=1 cargo bench --bench serving -- soak --seconds 5;
//! done`.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod adapters;
mod client;
#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "the benches share these tools, and this one uses few of them")]
mod common;
mod load;
mod offline;
mod options;
mod rows;
mod server;
mod soak;
mod statistics;
mod table;
mod versions;

use std::process::ExitCode;

use clap::Parser;

use common::Failure;
use options::{Options, World};
use table::Line;

/// A row by name, whether it runs if no row is named, and the function that measures it.
type Row = (&'static str, bool, fn(&World) -> Result<Vec<Line>, Failure>);

const ROWS: [Row; 11] = [
    ("http", true, rows::http::measure),
    ("many", true, rows::many::measure),
    ("memory", true, rows::memory::measure),
    ("swap", true, rows::swap::measure),
    ("notice", true, rows::notice::measure),
    ("fair", true, rows::fair::measure),
    ("shared", true, rows::shared::measure),
    ("cold", true, rows::cold::measure),
    ("start", true, rows::start::measure),
    ("overload", true, rows::overload::measure),
    ("soak", false, soak::measure),
];

fn main() -> Result<ExitCode, Failure> {
    let options = Options::parse();
    if let Some(name) = options.rows.iter().find(|name| ROWS.iter().all(|(row, ..)| row != name)) {
        return Err(format!("no row {name}; there are {}", ROWS.map(|(row, ..)| row).join(", ")).into());
    }
    let world = World::open(options)?;
    let mut met = true;
    table::print_head();
    for (name, by_default, measure) in ROWS {
        let asked = &world.options.rows;
        if !(if asked.is_empty() { by_default } else { asked.iter().any(|asked| asked == name) }) {
            continue;
        }
        match measure(&world) {
            Ok(lines) => {
                for line in lines {
                    met &= line.met != Some(false);
                    line.print(name);
                }
            }
            Err(failure) => {
                met = false;
                Line { what: "failed".into(), measured: failure.to_string(), ..Line::default() }.print(name);
            }
        }
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
