//! The first request of an adapter that is not in memory, while its file is in the page cache.

use std::time::Instant;

use super::{ALL_IN_MEMORY, expect_ok, warm};
use crate::adapters;
use crate::client::Connection;
use crate::common::Failure;
use crate::load;
use crate::offline::question;
use crate::options::World;
use crate::server::Server;
use crate::statistics::median;
use crate::table::Line;

const ADAPTERS: usize = 100;
/// Warm requests for each cold one.
const WARM: usize = 5;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    // They were just written, so they are in the page cache.
    let names = adapters::write_many(world, folder.path(), "adapter", ADAPTERS)?;
    let server = Server::start(&world.options, folder.path(), &ALL_IN_MEMORY)?;
    warm(&server, world, &names[..1])?;
    let mut more = load::block_on(async {
        let mut connection = Connection::open(server.address).await?;
        let mut more = Vec::new();
        for (name, text) in names.iter().zip(world.texts.iter().cycle()).skip(1) {
            let asked = question(name, &[text]);
            let mut times = Vec::new();
            for _ in 0..=WARM {
                let begun = Instant::now();
                expect_ok(&connection.ask(&asked).await?, name)?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            let cold = times.remove(0);
            more.push(cold - median(&mut times));
        }
        Ok(more)
    })?;
    server.stop(&world.options.dumps)?;
    let typical = median(&mut more);
    Ok(vec![Line {
        what: "first request of a cold adapter, over a warm one".into(),
        measured: format!("{typical:.2} ms"),
        goal: "10 ms (3 ms)",
        met: Some(typical <= 10.0),
        beside: format!(
            "median of {}; 90th percentile {:.2} ms; the largest {:.2} ms",
            more.len(),
            more[more.len() * 9 / 10],
            more[more.len() - 1]
        ),
    }])
}
