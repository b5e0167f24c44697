//! Throughput over HTTP, against `polyrank bench` on the same texts and adapters in its own process, in turn.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{ALL_IN_MEMORY, CONNECTIONS, argument, questions, warm};
use crate::adapters;
use crate::common::Failure;
use crate::load::{self, Asking};
use crate::options::World;
use crate::server::Server;
use crate::statistics::median;
use crate::table::Line;

const ROUNDS: usize = 5;
const ADAPTERS: usize = 16;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let root = folder.path().join("adapters");
    let names = adapters::write_many(world, &root, "adapter", ADAPTERS)?;
    let input = folder.path().join("texts.txt");
    std::fs::write(&input, world.texts.join("\n"))?;

    let server = Server::start(&world.options, &root, &ALL_IN_MEMORY)?;
    warm(&server, world, &names)?;
    let asking = Asking::in_turn(server.address, questions(world, &names));
    let slice = Duration::from_secs(world.seconds(25)) / ROUNDS as u32;
    load::closed(&asking, CONNECTIONS, slice / 2)?;
    let (mut ratios, mut rates, mut alone, mut shares, mut p50) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let offline = in_process(world, argument(&root)?, argument(&input)?)?;
        let tally = load::closed(&asking, CONNECTIONS, slice)?;
        if tally.count(200) < tally.samples.len() {
            return Err(format!("not all requests were answered: {}", tally.statuses()).into());
        }
        ratios.push(tally.rate() / offline);
        rates.push(tally.rate());
        alone.push(offline);
        shares.push(tally.share());
        p50.extend(tally.samples.iter().map(|sample| sample.took().as_secs_f64() * 1e3));
    }
    server.stop(&world.options.dumps)?;
    let spread = ratios.iter().copied().fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
    let ratio = median(&mut ratios);
    Ok(vec![Line {
        what: format!("{CONNECTIONS} connections, one text a request, {ADAPTERS} adapters, against `polyrank bench`"),
        measured: format!("{:.1} %", 100.0 * ratio),
        goal: "93 % (97 %)",
        met: Some(ratio >= 0.93),
        beside: format!(
            "{:.0} against {:.0} texts/s; ratios from {:.1} to {:.1} %; asking took {:.0} % of a core; median request {:.1} ms",
            median(&mut rates),
            median(&mut alone),
            100.0 * spread.0,
            100.0 * spread.1,
            100.0 * median(&mut shares),
            median(&mut p50),
        ),
    }])
}

/// Texts a second of `polyrank bench`.
fn in_process(world: &World, adapters: &str, input: &str) -> Result<f64, Failure> {
    let mut command = Command::new(&world.options.polyrank);
    command.args([
        "bench",
        "--model-id",
        &world.options.model_id,
        "--adapters",
        adapters,
        "--input",
        input,
        "--json",
        "--repeats",
        "3",
    ]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    report["texts_per_second"].as_f64().ok_or_else(|| format!("no texts_per_second in {report}").into())
}
