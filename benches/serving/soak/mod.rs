//! The soak: overload, changing folders and rude clients at once.
//!
//! Every reply is checked: each accepted request is answered once, with the library's answer of one version that was current while it
//! ran. The server's memory, files and threads must stay level. Where nothing is answered for [`SILENCE`], the stacks of the server are
//! written into a file.

mod clients;
mod folders;
mod malformed;
mod rude;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Failure;
use crate::offline;
use crate::options::World;
use crate::server::{Moment, Server};
use crate::table::Line;
use crate::versions::Versions;

/// Texts that are asked.
const TEXTS: usize = 32;
/// Adapters whose folders never change.
const STEADY: usize = 4;
/// After so long without any answer, the server hangs.
const SILENCE: Duration = Duration::from_secs(15);
/// How long after a change of a folder the version before may still answer.
const GRACE: Duration = Duration::from_secs(3);
/// Failures are of one kind if they begin with so many equal letters.
const KIND: usize = 24;

/// What all parts of the soak share.
struct Soak {
    address: SocketAddr,
    stop: AtomicBool,
    /// All adapters: those that never change, then those of [`folders`].
    adapters: Vec<Versions>,
    /// Whether the server has `PUT` and `DELETE`.
    updates: bool,
    /// The server before the first client came.
    idle: Moment,
    seen: Mutex<Seen>,
}

struct Seen {
    /// How often each thing happened.
    counts: BTreeMap<String, usize>,
    failures: usize,
    /// The first failure of each kind, and how many there were.
    kinds: BTreeMap<String, (usize, String)>,
    answered: Instant,
    /// The times in which the server was killed, or started again.
    down: Vec<(Instant, Option<Instant>)>,
}

impl Soak {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, what: impl Into<String>) {
        *self.seen().counts.entry(what.into()).or_default() += 1;
    }

    fn fail(&self, what: impl Into<String>) {
        let (what, mut seen) = (what.into(), self.seen());
        seen.failures += 1;
        let kind = what.chars().filter(|c| !c.is_ascii_digit()).take(KIND).collect();
        seen.kinds.entry(kind).or_insert((0, what)).0 += 1;
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps, but no longer than the soak lasts. Returns whether it goes on.
    fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while !self.stopped() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
        !self.stopped()
    }

    /// Whether the server was down at some time since `begun`.
    fn was_down(&self, begun: Instant) -> bool {
        let grace = Duration::from_millis(500);
        self.seen().down.iter().any(|(_, until)| until.is_none_or(|until| until + grace > begun))
    }
}

pub(crate) fn measure(world: &World) -> Result<Vec<Line>, Failure> {
    let folder = world.folder()?;
    let root = folder.path().join("adapters");
    let mut adapters = Vec::new();
    for i in 0..STEADY {
        adapters.push(Versions::write(world, folder.path(), &root, &format!("steady-{i}"), 1, TEXTS)?);
    }
    for name in folders::NAMES {
        adapters.push(Versions::write(world, folder.path(), &root, name, folders::VERSIONS, TEXTS)?);
    }
    let mut bytes = 0;
    for versions in &adapters {
        bytes += world.engine.load_adapter(&versions.dir)?.bytes();
    }
    let updates = knows(world, "--allow-adapter-updates")?;
    // Some adapters are evicted now and then, and two versions of one fit.
    let memory = (bytes * 4 / 5).to_string();
    let mut flags = vec!["--adapter-memory", &memory, "--max-queued-tokens", "2048", "--max-batch-tokens", "1024"];
    flags.extend(["--request-timeout", "10s", "--payload-limit", "200000"]);
    flags.extend(updates.then_some("--allow-adapter-updates"));
    let server = Server::start(&world.options, &root, &flags)?;

    let seen = Seen {
        counts: BTreeMap::new(),
        failures: 0,
        kinds: BTreeMap::new(),
        answered: Instant::now(),
        down: Vec::new(),
    };
    let (address, idle, seen) = (server.address, server.moment()?, Mutex::new(seen));
    let soak = Arc::new(Soak { address, stop: AtomicBool::new(false), adapters, updates, idle, seen });
    let time = Duration::from_secs(world.seconds(60));
    let texts = offline_texts(world);
    let (server, moments) = thread::scope(|scope| -> Result<_, Failure> {
        let restart = |port| Server::start_on(&world.options, &root, &flags, port);
        let kill = world.options.kill;
        let (watched, dumps) = (&soak, &world.options.dumps);
        let watching = scope.spawn(move || watch::watch(watched, server, (time, kill), restart, dumps));
        for work in [folders::change, malformed::send, rude::hang_up, rude::write_slowly, rude::never_read] {
            let (soak, texts) = (&soak, &texts);
            scope.spawn(move || {
                if let Err(failure) = work(soak, texts) {
                    soak.fail(format!("the soak itself: {failure}"));
                    soak.stop.store(true, Ordering::Relaxed);
                }
            });
        }
        let asked = clients::ask(&soak, &texts);
        soak.stop.store(true, Ordering::Relaxed);
        let watched = watching.join().map_err(|_| "the watching thread panicked")?;
        asked?;
        watched
    })?;
    watch::finish(&soak, server, &moments, &texts, world)
}

/// The texts that are asked.
fn offline_texts(world: &World) -> Vec<String> {
    world.texts.iter().take(TEXTS).cloned().collect()
}

/// Whether `polyrank serve` has a flag.
fn knows(world: &World, flag: &str) -> Result<bool, Failure> {
    let help = Command::new(&world.options.polyrank).args(["serve", "--help"]).output()?;
    Ok(String::from_utf8_lossy(&help.stdout).contains(flag))
}

/// The question of the texts with these indices to an adapter.
fn question(adapter: &str, texts: &[String], indices: &[usize]) -> Vec<u8> {
    let texts: Vec<&str> = indices.iter().map(|&index| texts[index].as_str()).collect();
    offline::question(adapter, &texts)
}
