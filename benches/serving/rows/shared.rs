//! One text asked of six adapters in one request, against the same text asked of one adapter.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ALL_IN_MEMORY, expect_ok, warm};
use crate::adapters::{self, Recipe};
use crate::client::{self, Connection};
use crate::common::Failure;
use crate::load;
use crate::offline::question;
use crate::options::World;
use crate::server::Server;
use crate::statistics::median;
use crate::table::Line;

const ADAPTERS: usize = 6;
/// The share of layers that the adapters leave alone.
const ALONE: f64 = 0.7;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let names: Vec<String> = (0..ADAPTERS).map(|i| format!("adapter-{i}")).collect();
    let layers = world.engine.layout().layers;
    let first_layer = ((ALONE * layers as f64).ceil() as usize).min(layers - 1);
    for (seed, name) in names.iter().enumerate() {
        let recipe = Recipe { seed: seed as u64, labels: "label", first_layer };
        adapters::write(world, &folder.path().join(name), recipe)?;
    }
    let server = Server::start(&world.options, folder.path(), &ALL_IN_MEMORY)?;
    warm(&server, world, &names)?;
    let (mut ones, mut sixes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    load::block_on(async {
        let mut connection = Connection::open(server.address).await?;
        let end = Instant::now() + Duration::from_secs(world.seconds(15));
        for text in world.texts.iter().cycle() {
            let one = question(&names[0], &[text]);
            let all = client::request("POST", "/classify", &json!({"inputs": text, "adapters": names}));
            let mut times = [0.0; 2];
            for (request, time) in [one, all].iter().zip(&mut times) {
                let begun = Instant::now();
                let reply = connection.ask(request).await?;
                *time = begun.elapsed().as_secs_f64() * 1e3;
                expect_ok(&reply, "the request")?;
            }
            ones.push(times[0]);
            sixes.push(times[1]);
            ratios.push(times[1] / times[0]);
            if Instant::now() > end {
                break;
            }
        }
        Ok(())
    })?;
    server.stop(&world.options.dumps)?;
    let ratio = median(&mut ratios);
    Ok(vec![Line {
        what: format!(
            "{ADAPTERS} adapters asked of one text, against one; all begin at layer {first_layer} of {layers}"
        ),
        measured: format!("{ratio:.2} times"),
        goal: "2.8 (2.5)",
        met: Some(ratio <= 2.8),
        beside: format!("{:.2} against {:.2} ms, medians of {}", median(&mut sixes), median(&mut ones), ratios.len()),
    }])
}
