//! Twice the capacity: what accepted requests wait, and how fast the rest is refused.

use std::time::Duration;

use super::{ALL_IN_MEMORY, CONNECTIONS, capacity, questions, warm};
use crate::adapters;
use crate::common::Failure;
use crate::load::{self, Asking, Sample};
use crate::offline;
use crate::options::World;
use crate::server::Server;
use crate::statistics::percentile;
use crate::table::Line;

const ADAPTERS: usize = 16;
/// The queue and a batch, in tokens: what may come before a request that was accepted.
const QUEUED: usize = 16384;
const BATCH: usize = 4096;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let names = adapters::write_many(world, folder.path(), "adapter", ADAPTERS)?;
    let (queued, batch) = (QUEUED.to_string(), BATCH.to_string());
    // The generator asks over the connection that was used last. A server that closes the others meanwhile is not what is measured.
    let limits = ["--max-queued-tokens", &queued, "--max-batch-tokens", &batch, "--keep-alive-timeout", "1h"];
    let server = Server::start(&world.options, folder.path(), &[&ALL_IN_MEMORY[..], &limits].concat())?;
    warm(&server, world, &names)?;
    let asking = Asking::in_turn(server.address, questions(world, &names));
    let rate = capacity(&asking, CONNECTIONS, Duration::from_secs(8))?.rate();
    let texts = offline::encoded(world, world.texts.len())?;
    let tokens = texts.iter().map(|text| text.ids.len()).sum::<usize>() as f64 / texts.len() as f64;

    let tally = load::open(&asking, 2.0 * rate, Duration::from_secs(world.seconds(30)), 4)?;
    let moment = server.moment()?;
    server.stop(&world.options.dumps)?;
    let mut refusals: Vec<Duration> =
        tally.samples.iter().filter(|sample| sample.status == 429).map(Sample::answered_in).collect();
    let refused = percentile(&mut refusals, 99);
    // While the server refuses, it serves slower than alone.
    let served = tally.rate();
    let bound = (QUEUED + 2 * BATCH) as f64 / (served * tokens) * 1e3;
    let accepted = tally.p99(|_| true);
    let others = tally.samples.len() - tally.count(200) - tally.count(429);
    Ok(vec![
        Line {
            what: "twice the capacity: accepted requests' p99".into(),
            measured: format!("{accepted:.0} ms"),
            goal: "the queue's bound",
            met: Some(accepted <= bound && others == 0),
            beside: format!(
                "bound {bound:.0} ms ({QUEUED} tokens and two batches of {BATCH}); capacity {rate:.0}, served {served:.0} texts/s; {}; \
                 asking took {:.0} % of a core; {} MB, {} files, {} threads",
                tally.statuses(),
                100.0 * tally.share(),
                moment.memory / 1_000_000,
                moment.files,
                moment.threads,
            ),
        },
        Line {
            what: "twice the capacity: time of a refusal, p99".into(),
            measured: format!("{refused:.1} ms"),
            goal: "10 ms",
            met: Some(refused <= 10.0),
            beside: format!("median {:.1} ms of {}", percentile(&mut refusals, 50), refusals.len()),
        },
    ])
}
