//! Thousands of adapters, of which a fifth fits into `--adapter-memory`. Every answer is compared with the library's.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::{CONNECTIONS, by_popularity, popular_questions};
use crate::adapters;
use crate::common::Failure;
use crate::load::{self, Asking};
use crate::offline;
use crate::options::World;
use crate::server::Server;
use crate::table::Line;

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let names = adapters::write_many(world, folder.path(), "adapter", world.options.adapters)?;
    let texts = offline::encoded(world, world.texts.len())?;
    let chosen = by_popularity(names.len());
    let (mut expected, mut bytes) = (vec![Vec::new(); chosen.len()], 0);
    for (adapter, name) in names.iter().enumerate() {
        let dir = folder.path().join(name);
        bytes += world.engine.load_adapter(&dir)?.bytes();
        let asked: Vec<usize> = (0..chosen.len()).filter(|&question| chosen[question] == adapter).collect();
        let asked_texts: Vec<_> = asked.iter().map(|question| texts[question % texts.len()].clone()).collect();
        for (question, answer) in asked.into_iter().zip(offline::answers(&world.engine, &dir, &asked_texts)?) {
            expected[question] = answer;
        }
    }
    let budget = (bytes / 5).to_string();
    let server = Server::start(&world.options, folder.path(), &["--adapter-memory", &budget])?;
    let wrong = Rc::new(RefCell::new((0usize, String::new())));
    let seen = Rc::clone(&wrong);
    let asking = Asking::in_turn(server.address, popular_questions(world, &names, &chosen));
    let asking = asking.looking(move |sample, reply| {
        let right = reply.json().is_ok_and(|body| offline::is(&body[0], &expected[sample.question]));
        if sample.status == 200 && !right {
            let mut wrong = seen.borrow_mut();
            wrong.0 += 1;
            wrong.1 = String::from_utf8_lossy(&reply.body).into_owned();
        }
    });
    let tally = load::closed(&asking, CONNECTIONS, Duration::from_secs(world.seconds(30)))?;
    server.stop(&world.options.dumps)?;
    let (wrong, example) = &*wrong.borrow();
    let failed = tally.samples.iter().filter(|sample| !matches!(sample.status, 200 | 429 | 503)).count();
    Ok(vec![Line {
        what: format!("{} adapters, memory for a fifth: wrong answers", names.len()),
        measured: format!("{wrong} of {}", tally.count(200)),
        goal: "none",
        met: Some(*wrong == 0 && failed == 0 && tally.count(200) > 0),
        beside: format!(
            "{:.0} texts/s; p99 {:.1} ms; {}; asking took {:.0} % of a core {example}",
            tally.rate(),
            tally.p99(|_| true),
            tally.statuses(),
            100.0 * tally.share(),
        ),
    }])
}
