//! The time from the start of the process to its first answer.

use std::time::Instant;

use crate::adapters;
use crate::client::{self, Connection};
use crate::common::Failure;
use crate::load;
use crate::options::World;
use crate::server::Server;
use crate::statistics::median;
use crate::table::Line;

const STARTS: usize = 7;
const FEW: usize = 5;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for count in [FEW, world.options.adapters] {
        let folder = world.folder()?;
        let names = adapters::write_many(world, folder.path(), "adapter", count)?;
        let mut seconds = [Vec::new(), Vec::new()];
        for _ in 0..STARTS {
            let begun = Instant::now();
            let server = Server::start(&world.options, folder.path(), &[])?;
            let requests = [client::get("/health"), crate::offline::question(&names[0], &[&world.texts[0]])];
            load::block_on(async {
                let mut connection = Connection::open(server.address).await?;
                for (request, seconds) in requests.iter().zip(&mut seconds) {
                    // While it starts, requests for adapters may be refused.
                    while connection.ask(request).await?.status != 200 {
                        tokio::task::yield_now().await;
                    }
                    seconds.push(begun.elapsed().as_secs_f64());
                }
                Ok(())
            })?;
            server.stop(&world.options.dumps)?;
        }
        let [health, classified] = seconds.each_mut().map(|seconds| median(seconds));
        lines.push(Line {
            what: format!("start to the first /health 200, {count} adapters in the folder"),
            measured: format!("{health:.3} s"),
            goal: "0.3 s (0.1 s)",
            met: Some(health <= 0.3),
            beside: format!("median of {STARTS}; {classified:.3} s to the first text classified"),
        });
    }
    Ok(lines)
}
