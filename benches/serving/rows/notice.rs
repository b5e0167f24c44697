//! The time from a changed folder to the first answer of the new version.

use std::time::{Duration, Instant};

use super::ALL_IN_MEMORY;
use crate::client::Connection;
use crate::common::Failure;
use crate::load;
use crate::offline::question;
use crate::options::World;
use crate::server::Server;
use crate::statistics::median;
use crate::table::Line;
use crate::versions::Versions;

const SWAPS: usize = 12;
/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(2);
/// A version that has not answered by then never will.
const LONGEST: Duration = Duration::from_secs(5);

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let root = folder.path().join("adapters");
    let versions = Versions::write(world, folder.path(), &root, "swapped", 2, 1)?;
    let server = Server::start(&world.options, &root, &ALL_IN_MEMORY)?;
    let asked = question("swapped", &[&world.texts[0]]);
    let mut times = load::block_on(async {
        let mut connection = Connection::open(server.address).await?;
        connection.ask(&asked).await?;
        let mut times = Vec::new();
        for _ in 0..SWAPS {
            // Longer than a file must lie still before it counts as whole.
            tokio::time::sleep(Duration::from_millis(700)).await;
            let label = format!("swapped-v{}-", versions.install_next()?);
            let begun = Instant::now();
            loop {
                let reply = connection.ask(&asked).await?;
                if reply.status == 200 && String::from_utf8_lossy(&reply.body).contains(&label) {
                    break;
                }
                if begun.elapsed() > LONGEST {
                    let body = String::from_utf8_lossy(&reply.body).into_owned();
                    return Err(format!("the old version after {LONGEST:?}: {} {body}", reply.status).into());
                }
                tokio::time::sleep(PAUSE).await;
            }
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(times)
    })?;
    server.stop(&world.options.dumps)?;
    let largest = times.iter().copied().fold(0.0, f64::max);
    Ok(vec![Line {
        what: "from a changed folder to the new version answering".into(),
        measured: format!("{:.3} s", median(&mut times)),
        goal: "1 s (0.2 s)",
        met: Some(largest <= 1.0),
        beside: format!("median of {SWAPS}; the largest {largest:.3} s"),
    }])
}
