//! One swap a second under load: what it costs requests to other adapters, and whether each answer is one version's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ALL_IN_MEMORY, CONNECTIONS, Slices, warm};
use crate::adapters;
use crate::client::Reply;
use crate::common::Failure;
use crate::load::{self, Asking, Sample};
use crate::offline::question;
use crate::options::World;
use crate::server::Server;
use crate::table::Line;
use crate::versions::Versions;

const OTHERS: usize = 15;
const VERSIONS: usize = 6;
const TEXTS: usize = 64;
const ROUNDS: usize = 3;
/// How long after a swap the old version may still answer. The row `notice` measures how long it does.
const GRACE: Duration = Duration::from_secs(3);

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let root = folder.path().join("adapters");
    let mut names = adapters::write_many(world, &root, "adapter", OTHERS)?;
    let versions = Arc::new(Versions::write(world, folder.path(), &root, "swapped", VERSIONS, TEXTS)?);
    names.push("swapped".into());

    let server = Server::start(&world.options, &root, &ALL_IN_MEMORY)?;
    warm(&server, world, &names)?;
    // Questions of the swapped adapter come last.
    let asked = names.iter().flat_map(|name| world.texts.iter().take(TEXTS).map(move |text| question(name, &[text])));
    let questions = Rc::new(asked.collect::<Vec<_>>());
    let first_swapped = OTHERS * TEXTS;
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (look, tracked) = (Rc::clone(&seen), Arc::clone(&versions));
    let (mut rng, count) = (StdRng::seed_from_u64(6), questions.len());
    let asking = Asking::in_turn(server.address, questions).choosing(move || rng.random_range(0..count));
    let asking = asking.looking(move |sample, reply| {
        if sample.question >= first_swapped {
            look.borrow_mut().look(&tracked, sample, reply, sample.question - first_swapped);
        }
    });

    let slice = Duration::from_secs(world.seconds(45)) / (3 * ROUNDS) as u32;
    load::closed(&asking, CONNECTIONS, slice / 2)?;
    let mut slices = Slices::new(3);
    let mut swaps = 0;
    for _ in 0..ROUNDS {
        for (kind, slices) in slices.0.iter_mut().enumerate() {
            let swapping = (kind == 1).then(|| Swapping::start(Arc::clone(&versions)));
            slices.add(load::closed(&asking, CONNECTIONS, slice)?);
            if let Some(swapping) = swapping {
                swaps += swapping.stop()?;
            }
        }
    }
    server.stop(&world.options.dumps)?;
    let p99: Vec<f64> = slices.0.iter().map(|tally| tally.p99(|question| question < first_swapped)).collect();
    let ratio = 2.0 * p99[1] / (p99[0] + p99[2]);
    let Seen { right, wrong, others, example } = &*seen.borrow();
    Ok(vec![
        Line {
            what: "one swap a second: other adapters' p99 with against without".into(),
            measured: format!("{:+.1} %", 100.0 * (ratio - 1.0)),
            goal: "10 % (3 %)",
            met: Some(ratio <= 1.1),
            beside: format!(
                "{:.1} against {:.1} ms; control {:+.1} %; {:.0} against {:.0} texts/s; {swaps} swaps",
                p99[1],
                p99[0],
                100.0 * (p99[2] / p99[0] - 1.0),
                slices.0[1].rate(),
                slices.0[0].rate(),
            ),
        },
        Line {
            what: "one swap a second: wrong or mixed answers of the swapped adapter".into(),
            measured: format!("{wrong} of {right} and {wrong}"),
            goal: "none",
            met: Some(*wrong == 0 && *right > 0 && others.is_empty()),
            beside: format!("other statuses: {others:?} {example}"),
        },
    ])
}

/// What the swapped adapter answered.
#[derive(Default)]
struct Seen {
    right: usize,
    wrong: usize,
    /// Statuses other than 200.
    others: BTreeMap<u16, usize>,
    example: String,
}

impl Seen {
    fn look(&mut self, versions: &Versions, sample: &Sample, reply: &Reply, text: usize) {
        if sample.status != 200 {
            *self.others.entry(sample.status).or_default() += 1;
            return;
        }
        let body = reply.json().unwrap_or_default();
        match versions.check(&body, &[text], reply.header("x-adapter-generation"), (sample.sent, sample.ended), GRACE) {
            Ok(()) => self.right += 1,
            Err(reason) => {
                self.wrong += 1;
                self.example = reason;
            }
        }
    }
}

/// A thread that swaps once a second.
struct Swapping {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<usize, Failure>>,
}

impl Swapping {
    fn start(versions: Arc<Versions>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !stopped.load(Ordering::Relaxed) {
                versions.install_next()?;
                swaps += 1;
                std::thread::sleep(Duration::from_secs(1));
            }
            Ok(swaps)
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<usize, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the swapping thread panicked")?
    }
}
