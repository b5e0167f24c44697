//! Thousands of adapters in memory, asked by Zipf's law, against 5 of them.

use std::time::Duration;

use super::{ALL_IN_MEMORY, CONNECTIONS, Slices, by_popularity, popular_questions, warm};
use crate::adapters;
use crate::common::Failure;
use crate::load::{self, Asking};
use crate::options::World;
use crate::server::Server;
use crate::statistics::median;
use crate::table::Line;

const FEW: usize = 5;
const ROUNDS: usize = 5;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let (many, few) = (folder.path().join("many"), folder.path().join("few"));
    let names = adapters::write_many(world, &many, "adapter", world.options.adapters)?;
    let few_names = adapters::write_many(world, &few, "adapter", FEW.min(names.len()))?;

    // The second server of a few adapters is the control.
    let mut kinds = Vec::new();
    for (root, names) in [(&few, &few_names), (&many, &names), (&few, &few_names)] {
        let server = Server::start(&world.options, root, &ALL_IN_MEMORY)?;
        warm(&server, world, names)?;
        let questions = popular_questions(world, names, &by_popularity(names.len()));
        let asking = Asking::in_turn(server.address, questions);
        kinds.push((server, asking));
    }
    let slice = Duration::from_secs(world.seconds(45)) / (3 * ROUNDS) as u32;
    let mut slices = Slices::new(kinds.len());
    let (mut ratios, mut controls) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let mut rates = Vec::new();
        for (kind, (_, asking)) in kinds.iter().enumerate() {
            let tally = load::closed(asking, CONNECTIONS, slice)?;
            rates.push(tally.rate());
            // The first round warms.
            if round > 0 {
                slices.0[kind].add(tally);
            }
        }
        if round > 0 {
            ratios.push(2.0 * rates[1] / (rates[0] + rates[2]));
            controls.push(rates[2] / rates[0]);
        }
    }
    let memory = kinds[1].0.moment()?.memory / 1_000_000;
    for (server, _) in kinds {
        server.stop(&world.options.dumps)?;
    }
    let p99: Vec<f64> = slices.0.iter().map(|tally| tally.p99(|_| true)).collect();
    let (ratio, slower) = (median(&mut ratios), 2.0 * p99[1] / (p99[0] + p99[2]));
    let what = format!("{} adapters in memory against {FEW}", names.len());
    Ok(vec![
        Line {
            what: format!("{what}: throughput"),
            measured: format!("{:.1} %", 100.0 * ratio),
            goal: "93 % (97 %)",
            met: Some(ratio >= 0.93),
            beside: format!(
                "{:.0} against {:.0} texts/s; control {:.1} %; asking took {:.0} % of a core; {memory} MB; {}",
                slices.0[1].rate(),
                slices.0[0].rate(),
                100.0 * median(&mut controls),
                100.0 * slices.0[1].share(),
                slices.0[1].statuses(),
            ),
        },
        Line {
            what: format!("{what}: p99"),
            measured: format!("{slower:.3} times"),
            goal: "1.15 (1.05)",
            met: Some(slower <= 1.15),
            beside: format!("{:.1} against {:.1} ms; control {:.3}", p99[1], p99[0], p99[2] / p99[0]),
        },
    ])
}
