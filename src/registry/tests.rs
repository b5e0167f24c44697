//! The state alone, with times that are made up: no thread, no disk.

#![allow(clippy::unwrap_used)]

mod device;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use tokio::sync::oneshot;

use super::entry::{Failure, Found, JobOutcome, Order, OrderKind, Purpose};
use super::event::Event;
use super::pin::Taken;
use super::stamp::Stamp;
use super::state::{Asked, Effect, MOST_ORDERS, MOST_QUEUED, MOST_WAITERS, State};
use super::status::{Checked, Facts, Status, Tier};
use super::updates::MOST_FAILED;
use super::{Expected, RegistryError, Settings};
use crate::adapter::{Adapter, AdapterInfo, AdapterWeights, Ranks};

/// A state with memory for `budget` numbers, and what its effects ask for.
struct World {
    state: State,
    start: Instant,
    /// The pins that were given out, by adapter, and have not been dropped.
    pins: Vec<Taken>,
    errors: Vec<RegistryError>,
    replies: Vec<Result<Status, RegistryError>>,
    jobs: Vec<Arc<str>>,
    /// What the log tells of failed loads.
    failed: Vec<String>,
}

impl World {
    fn new(budget: usize) -> Self {
        let settings = Settings { budget: budget * 4, room_wait: Duration::from_secs(1), ..Settings::default() };
        let (state, start) = (State::new(&settings, Tier::Memory), Instant::now());
        Self {
            state,
            start,
            pins: Vec::new(),
            errors: Vec::new(),
            replies: Vec::new(),
            jobs: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Memory for one adapter, which a holds; b waits in the line. Outside of it wait, from milliseconds 2 to 4: c, which is asked for,
    /// a new version of a, and d, which is put.
    fn crowded() -> Self {
        let mut world = Self::new(10);
        for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
            // The callers wait for as long as the test lasts.
            std::mem::forget(world.ask(name, at as u64));
            world.run(10, 1, at as u64);
        }
        world.tick(3);
        world.run(10, 2, 3);
        world.order("d", OrderKind::Put("d".into()), None, 4);
        world.run(10, 3, 4);
        world
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }

    /// Takes the effects of the last transition.
    fn settle(&mut self) {
        for effect in std::mem::take(&mut self.state.effects) {
            match effect {
                Effect::Answer(_, Ok(taken)) => self.pins.push(taken),
                Effect::Answer(_, Err(error)) => self.errors.push(error),
                Effect::Reply(_, reply) => self.replies.push(*reply),
                Effect::Run(name, _) => self.jobs.push(name),
                Effect::Log(Event::Failed { reason, .. }) => self.failed.push(reason),
                Effect::Free(_) | Effect::Log(_) => {}
            }
        }
    }

    /// Asks for a pin. The receiver has to live for as long as somebody waits.
    fn ask(&mut self, name: &str, at: u64) -> Option<oneshot::Receiver<Result<super::Pin, RegistryError>>> {
        let now = self.at(at);
        let asked = self.state.ask(name, now).unwrap();
        self.settle();
        match asked {
            Asked::Now(taken) => {
                self.pins.push(taken);
                None
            }
            Asked::Wait(answer) => Some(answer),
        }
    }

    /// Runs the jobs. Each adapter that is read has `numbers` numbers and a content of its own.
    fn run(&mut self, numbers: usize, digest: u8, at: u64) {
        let now = self.at(at);
        for name in std::mem::take(&mut self.jobs) {
            let Some(work) = self.state.begin(&name, now) else { continue };
            let outcome = match &work.purpose {
                Purpose::Order(Order { kind: OrderKind::Delete | OrderKind::Describe, .. }) => JobOutcome::Exists(None),
                Purpose::Look if !work.resident => JobOutcome::Exists(None),
                _ => JobOutcome::Found(Box::new(found(work.folder.clone(), numbers, digest))),
            };
            self.state.finish(&name, work.purpose, Ok(outcome), now);
            self.settle();
        }
    }

    fn tick(&mut self, at: u64) {
        let now = self.at(at);
        self.state.tick(now);
        self.settle();
    }

    /// Drops the first pin of `name`.
    fn drop_pin(&mut self, name: &str, at: u64) {
        let now = self.at(at);
        let pin = self.pins.iter().position(|pin| &*pin.key.name == name).unwrap();
        let taken = self.pins.remove(pin);
        self.state.unpin(&taken.key, || now);
        self.settle();
    }

    fn pinned(&self) -> Vec<&str> {
        self.pins.iter().map(|pin| &*pin.key.name).collect()
    }

    fn order(&mut self, name: &str, kind: OrderKind, expected: Option<u64>, at: u64) {
        let (reply, answer) = oneshot::channel();
        let expected = expected.map(Expected::Generation);
        let now = self.at(at);
        self.state.order(name, Order { kind, expected, reply, number: 0 }, now);
        // Nobody reads the answer, but somebody waits for it.
        std::mem::forget(answer);
        self.settle();
    }
}

fn found(folder: PathBuf, numbers: usize, digest: u8) -> Found {
    let head = Tensor::zeros(numbers, DType::F32, &Device::Cpu).unwrap();
    let info = AdapterInfo { labels: Vec::new(), problem_type: None, base_fingerprint: None, base_model: None };
    let weights = AdapterWeights { sites: Vec::new(), head: [("classifier.weight".to_owned(), head)].into() };
    let adapter = Adapter { info, weights };
    let facts = Facts {
        ranks: Ranks(Vec::new()),
        bytes: adapter.bytes(),
        labels: Vec::new(),
        problem_type: None,
        first_active_site: None,
        warning: None,
    };
    let stamp = Stamp::of(Path::new("/nowhere")).unwrap();
    Found { folder, stamp, digest: [digest; 32], checked: Some(Checked { adapter, facts }) }
}

#[test]
fn pinned_adapter_is_drained_after_the_timeout_and_not_before() {
    let mut world = World::new(10);
    let _a = world.ask("a", 0);
    world.run(10, 1, 0);
    let b = world.ask("b", 10);
    world.run(10, 2, 10);
    assert_eq!(world.pinned(), ["a"], "b waits for room");
    world.tick(109);
    assert!(world.ask("a", 109).is_none(), "a is used further");
    world.tick(110);
    let held_back = world.ask("a", 111);
    assert!(held_back.is_some() && b.is_some());
    world.drop_pin("a", 120);
    assert_eq!(world.pinned(), ["a"], "the other pin of a still holds its room");
    world.drop_pin("a", 130);
    assert_eq!(world.pinned(), ["b"]);
    assert_eq!(world.state.residents.bytes(), 40);
    // The request that was held back has its turn in the same way.
    world.run(10, 1, 140);
    assert_eq!(world.pinned(), ["b"]);
    world.drop_pin("b", 150);
    assert_eq!(world.pinned(), ["a"]);
    assert_eq!((world.state.counters.loads, world.state.counters.evictions), (3, 2));
    assert_eq!(world.pins[0].key.generation, 1, "an evicted adapter comes back as the same version");
}

#[test]
fn names_of_failed_loads_are_forgotten() {
    let mut world = World::new(10);
    let until = world.at(1000);
    let fail = |world: &mut World, names: std::ops::Range<usize>| {
        for name in names.map(|i| format!("lost+found/{i}")) {
            world.state.entry(&name).failed = Some((until, RegistryError::NotFound { name: name.clone() }));
        }
    };
    fail(&mut world, 0..MOST_FAILED);
    world.tick(1001);
    assert_eq!(world.state.entries.len(), MOST_FAILED, "why a few adapters failed can still be told");
    fail(&mut world, 0..MOST_FAILED + 1);
    world.tick(999);
    assert_eq!(world.state.entries.len(), MOST_FAILED + 1);
    world.tick(1001);
    assert_eq!(world.state.entries.len(), 0);
}

/// However many there are. Looks find that files were repaired or removed, although nobody asks for these adapters.
#[test]
fn broken_adapters_are_counted_until_their_files_change() {
    let mut world = World::new(10);
    let stamp = |folder: &str| Stamp::of(Path::new(folder)).unwrap();
    let (broken, repaired) =
        (stamp("/nowhere"), stamp(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert/ragged")));
    for i in 0..=MOST_FAILED {
        let _waiter = world.ask(&format!("a{i}"), 0);
        let (name, now) = (world.jobs.pop().unwrap(), world.at(0));
        let work = world.state.begin(&name, now).unwrap();
        let error = RegistryError::TooLarge { name: "a".into(), bytes: 44, budget: 40 };
        world.state.finish(&name, work.purpose, Err(Failure { error, stamp: Some(broken) }), now);
        world.settle();
    }
    assert_eq!(world.state.broken(), MOST_FAILED + 1);
    for at in 2000..2100 {
        world.tick(at);
        let now = world.at(at);
        for name in std::mem::take(&mut world.jobs) {
            let work = world.state.begin(&name, now).unwrap();
            assert!(matches!(work.purpose, Purpose::Look));
            let found = match &*name {
                "a1" => Ok(JobOutcome::Exists(Some(repaired))),
                "a2" => Err(super::state::missing("a2").into()),
                _ => Ok(JobOutcome::Exists(Some(broken))),
            };
            world.state.finish(&name, work.purpose, found, now);
            world.settle();
        }
    }
    assert_eq!((world.state.broken(), world.state.entries.len()), (MOST_FAILED - 1, MOST_FAILED - 1));
}

/// An adapter that is asked again and again must not fill the log.
#[test]
fn failed_loads_are_told_once_for_each_reason() {
    let mut world = World::new(10);
    let mut fail = |error: RegistryError, at: u64| {
        let _waiter = world.ask("a", at);
        let now = world.at(at);
        for name in std::mem::take(&mut world.jobs) {
            let work = world.state.begin(&name, now).unwrap();
            world.state.finish(&name, work.purpose, Err(Failure::from(error.clone())), now);
            world.settle();
        }
        (world.failed.len(), world.state.counters.failed_loads)
    };
    let large = |bytes| RegistryError::TooLarge { name: "a".into(), bytes, budget: 40 };
    assert_eq!(fail(large(44), 0), (1, 1));
    assert_eq!(fail(large(44), 2000), (1, 2), "the same reason");
    assert_eq!(fail(large(48), 4000), (2, 3), "the files have changed");
    assert_eq!(
        fail(RegistryError::Changing { name: "a".into() }, 6000),
        (2, 3),
        "a copy that is not complete is no fault"
    );
}

#[test]
fn wait_for_room_ends() {
    let mut world = World::new(10);
    let _a = world.ask("a", 0);
    world.run(10, 1, 0);
    let _b = world.ask("b", 0);
    world.run(10, 2, 0);
    world.tick(100);
    let held_back = world.ask("a", 200);
    assert!(held_back.is_some());
    world.tick(999);
    assert!(world.errors.is_empty());
    world.tick(1000);
    assert!(matches!(world.errors[..], [RegistryError::Busy { bytes: 40, held: 40, budget: 40, .. }]));
    assert_eq!(world.pinned(), ["a", "a"], "the request that was held back is answered");
}

/// Updates have their turn like first loads, also where others wait for room all the time.
#[test]
fn updates_wait_for_room_in_the_order_in_which_they_came() {
    let mut world = World::crowded();
    let _e = world.ask("e", 5);
    world.run(10, 1, 5);
    assert_eq!((world.pinned(), world.state.counters.refused_updates), (vec!["a"], 0));
    let mut served = Vec::new();
    for at in 10..20 {
        if !world.pins.is_empty() {
            let name = world.pins[0].key.name.to_string();
            world.drop_pin(&name, at);
        }
        world.run(10, 2, at);
        world.tick(at);
        served.extend(world.state.residents.keys().map(|key| format!("{}/{}", key.name, key.generation)));
    }
    served.dedup();
    // Nobody uses d/4, so that it leaves at once. A new version of a is not wanted once a was evicted.
    assert_eq!(served, ["b/2", "c/3", "e/5"]);
    assert!(world.errors.is_empty());
    assert!(matches!(&world.replies[..], [Ok(status)] if status.generation == Some(4)));
}

#[test]
fn new_version_goes_before_first_loads_that_have_not_waited_much_longer() {
    let mut world = World::new(20);
    for (at, name) in ["x", "a", "b", "c"].into_iter().enumerate() {
        std::mem::forget(world.ask(name, at as u64));
        world.run(10, 1, at as u64);
    }
    assert_eq!(world.pinned(), ["x", "a"], "b and c wait");
    // The files of x and a have changed. The room of x is taken before its new version gets a turn.
    for at in [4, 5] {
        world.tick(at);
        world.run(10, 2, at);
    }
    for (at, name) in [(10, "x"), (11, "b")] {
        world.drop_pin(name, at);
        world.run(10, 2, at);
    }
    assert_eq!((world.pinned(), world.state.counters.swaps), (vec!["a", "c"], 1));
    assert_eq!(world.pins[1].key.generation, 5, "the fourth is the new version of a");
}

/// What waits outside the line is told when its time is over.
#[test]
fn updates_that_find_no_room_in_time_are_told_so() {
    let mut world = World::crowded();
    world.tick(1000);
    assert!(world.errors.is_empty() && world.replies.is_empty());
    assert!(world.state.snapshot("a").unwrap().problem.is_none());
    world.tick(2000);
    assert!(matches!(&world.replies[..], [Err(RegistryError::Busy { bytes: 40, held: 40, .. })]));
    assert!(matches!(&world.errors[..], [RegistryError::Busy { .. }, RegistryError::Busy { .. }]), "b and c");
    world.run(10, 2, 2000);
    assert!(world.state.snapshot("a").unwrap().problem.is_some_and(|problem| problem.contains("in use")));
    // The end answers those in the line and those outside.
    world.replies.clear();
    for (at, name) in [(2001, "d"), (2002, "e")] {
        world.order(name, OrderKind::Put(name.into()), None, at);
        world.run(10, 3, at);
    }
    assert!(world.replies.is_empty());
    world.state.stop();
    world.settle();
    assert!(matches!(&world.replies[..], [Err(RegistryError::Stopped), Err(RegistryError::Stopped)]));
}

#[test]
fn load_that_nobody_waits_for_any_more_drains_nothing() {
    let mut world = World::new(10);
    let _a = world.ask("a", 0);
    world.run(10, 1, 0);
    let b = world.ask("b", 0);
    world.run(10, 2, 0);
    drop(b);
    world.tick(100);
    assert!(world.ask("a", 101).is_none());
}

#[test]
fn files_that_change_back_and_forth_are_versions_of_their_own() {
    let mut world = World::new(100);
    for (at, digest, generation) in [(0, 1, 1), (1, 2, 2), (2, 1, 3), (3, 1, 3)] {
        world.order("a", OrderKind::Put("a".into()), None, at);
        world.run(10, digest, at);
        assert_eq!(world.replies.pop().unwrap().unwrap().generation, Some(generation));
    }
    assert_eq!((world.state.counters.swaps, world.state.counters.loads), (2, 3));
    assert_eq!(world.state.residents.len(), 1);
}

/// The expected generation is compared again when the version that was read comes into service.
#[test]
fn delete_overtakes_a_put_that_reads() {
    let mut world = World::new(100);
    world.order("a", OrderKind::Put("a".into()), None, 0);
    world.run(10, 1, 0);
    world.replies.clear();
    world.order("a", OrderKind::Put("b".into()), Some(1), 1);
    let name = world.jobs.pop().unwrap();
    let now = world.at(1);
    let work = world.state.begin(&name, now).unwrap();
    world.order("a", OrderKind::Delete, Some(1), 2);
    assert!(matches!(&world.replies[..], [Ok(status)] if status.generation == Some(1)));
    let outcome = JobOutcome::Found(Box::new(found("b".into(), 10, 2)));
    world.state.finish(&name, work.purpose, Ok(outcome), now);
    world.settle();
    assert!(matches!(&world.replies[..], [_, Err(RegistryError::Stale { found: None, .. })]));
    assert!(world.state.taken("a").is_none());
}

/// A `DELETE` is the later one, although it is done first.
#[test]
fn delete_undoes_the_puts_before_it() {
    let mut world = World::new(100);
    world.order("a", OrderKind::Put("a".into()), None, 0);
    world.run(10, 1, 0);
    world.order("a", OrderKind::Put("b".into()), None, 1);
    world.order("a", OrderKind::Put("c".into()), None, 1);
    world.order("a", OrderKind::Delete, None, 2);
    for at in 3..6 {
        world.run(10, 2, at);
    }
    assert!(
        matches!(
            &world.replies[..],
            [Ok(_), Ok(_), Err(RegistryError::Deleted { .. }), Err(RegistryError::Deleted { .. })]
        ),
        "{:?}",
        world.replies
    );
    assert!(world.state.taken("a").is_none() && world.state.is_withdrawn("a"));
    world.order("a", OrderKind::Put("a".into()), None, 7);
    world.run(10, 1, 7);
    assert!(world.replies.pop().unwrap().is_ok() && world.state.taken("a").is_some());
}

/// Room that others leave is noticed, although the files stay as they are. Until then, they are not read again and again.
#[test]
fn updates_without_room_are_read_again_after_a_pause() {
    let mut world = World::new(100);
    for (name, numbers) in [("kept", 60), ("a", 30)] {
        std::mem::forget(world.ask(name, 0));
        world.run(numbers, 1, 0);
        world.drop_pin(name, 0);
    }
    world.state.keep("kept");
    let name: Arc<str> = "a".into();
    let look = |world: &mut World, at| {
        world.state.touch(&name);
        world.tick(at);
        // The other adapter has its turn, too.
        world.jobs.retain(|job| *job == name);
    };
    look(&mut world, 1);
    world.run(50, 2, 1);
    assert!(world.state.snapshot("a").unwrap().problem.unwrap().contains("200 bytes"));
    let refused = |world: &mut World, at| {
        look(world, at);
        let now = world.at(at);
        let work = world.state.begin(&name, now).unwrap();
        world.jobs.clear();
        world.state.finish(&name, work.purpose, Ok(JobOutcome::StillRefused), now);
        work.refused.is_some()
    };
    assert!(refused(&mut world, 5000));
    assert!(!refused(&mut world, 5002));
    world.order("kept", OrderKind::Delete, None, 5003);
    look(&mut world, 5004);
    world.run(50, 2, 5004);
    let status = world.state.snapshot("a").unwrap();
    assert_eq!((status.generation, status.problem), (Some(3), None));
}

/// Other adapters take the room, and may leave it at any time.
#[test]
fn adapter_without_room_is_not_broken() {
    let mut world = World::new(10);
    let _waiter = world.ask("a", 0);
    let (name, now) = (world.jobs.pop().unwrap(), world.at(0));
    let work = world.state.begin(&name, now).unwrap();
    let error = RegistryError::NoRoom { name: "a".into(), bytes: 4, held: 8, budget: 10 };
    let stamp = Stamp::of(Path::new("/nowhere")).ok();
    world.state.finish(&name, work.purpose, Err(Failure { error, stamp }), now);
    assert!(world.state.broken() == 0 && world.state.snapshot("a").unwrap().problem.is_some());
}

/// The GPU is full: its memory is asked for again after a pause.
#[test]
fn updates_that_a_full_device_refuses_are_not_read_at_once() {
    let mut world = World::new(100);
    std::mem::forget(world.ask("a", 0));
    world.run(10, 1, 0);
    let (name, stamp): (Arc<str>, _) = ("a".into(), Stamp::of(Path::new("/nowhere")).unwrap());
    world.state.touch(&name);
    world.tick(1);
    let now = world.at(1);
    let work = world.state.begin(&name, now).unwrap();
    let error = RegistryError::DeviceMemory { name: "a".into(), needed: 2, free: 1 };
    world.state.finish(&name, work.purpose, Err(Failure { error, stamp: Some(stamp) }), now);
    world.jobs.clear();
    assert!(world.state.snapshot("a").unwrap().problem.is_some() && world.state.touched.is_empty());
    assert!(world.state.taken("a").is_some(), "the version in memory answers");
}

/// Clients that ask for the status of an adapter again and again do not hold up those that ask for its answers.
#[test]
fn orders_and_loads_of_an_adapter_take_turns() {
    let mut world = World::new(10);
    for name in ["a", "b"] {
        std::mem::forget(world.ask(name, 0));
        world.run(10, 1, 0);
        world.drop_pin(name, 0);
    }
    let (name, now) = (Arc::from("a"), world.at(1));
    world.order("a", OrderKind::Describe, None, 1);
    let _waiting = world.ask("a", 1);
    let mut purposes = Vec::new();
    for _ in 0..3 {
        let work = world.state.begin(&name, now).unwrap();
        world.order("a", OrderKind::Describe, None, 1);
        let outcome = match work.purpose {
            Purpose::Order(_) => JobOutcome::Exists(None),
            _ => JobOutcome::Unknown,
        };
        purposes.push(matches!(work.purpose, Purpose::Load));
        world.state.finish(&name, work.purpose, Ok(outcome), now);
        world.settle();
    }
    assert_eq!(purposes, [false, true, false]);
}

#[test]
fn as_many_requests_wait_as_are_allowed() {
    let mut world = World::new(100);
    let mut waiting: Vec<_> = (0..MOST_WAITERS).map(|_| world.ask("a", 0)).collect();
    let now = world.at(1);
    let refused = |world: &mut World| world.state.ask("a", now).err();
    assert!(matches!(refused(&mut world), Some(RegistryError::TooManyWaiters { limit: MOST_WAITERS, .. })));
    waiting.pop();
    assert!(refused(&mut world).is_none(), "the one that has gone leaves its place");
    for _ in 0..MOST_ORDERS {
        world.order("a", OrderKind::Describe, None, 1);
    }
    assert!(world.replies.is_empty());
    world.order("a", OrderKind::Describe, None, 1);
    assert!(matches!(&world.replies[..], [Err(RegistryError::TooManyWaiters { limit: MOST_ORDERS, .. })]));
    assert_eq!(world.jobs.len(), 1, "one job for all");
}

#[test]
fn as_many_adapters_are_loaded_as_are_allowed() {
    let mut world = World::new(100);
    let _waiting: Vec<_> = (0..MOST_QUEUED).map(|i| world.ask(&format!("a{i}"), 0)).collect();
    let now = world.at(1);
    assert!(matches!(world.state.ask("b", now), Err(RegistryError::TooManyLoads { limit: MOST_QUEUED })));
    assert!(!world.state.entries.contains_key("b"));
    world.run(1, 1, 1);
    assert!(matches!(world.state.ask("b", now), Ok(Asked::Wait(_))));
}

/// Names that clients make up leave nothing behind.
#[test]
fn unknown_names_are_forgotten() {
    let mut world = World::new(100);
    let waiting = world.ask("nobody", 0);
    assert!(waiting.is_some());
    let (name, now) = (world.jobs.pop().unwrap(), world.at(1));
    let work = world.state.begin(&name, now).unwrap();
    world.state.finish(&name, work.purpose, Err(super::state::missing("nobody").into()), now);
    world.settle();
    assert!(matches!(world.errors[..], [RegistryError::NotFound { .. }]));
    assert!(world.state.entries.is_empty());
    assert!(matches!(world.state.ask("../x", now), Err(RegistryError::NotFound { .. })));
    assert!(world.state.entries.is_empty());
}

#[test]
fn used_adapters_are_looked_at_in_the_next_tick() {
    // So many that the turn of one among all is far away.
    let names: Vec<String> = (0..200).map(|i| format!("a{i}")).collect();
    let mut world = World::new(1000);
    for name in &names {
        drop(world.ask(name, 0));
        let _waiting = world.ask(name, 0);
        world.run(1, 1, 0);
    }
    world.pins.clear();
    let looked_at = |world: &mut World, at: u64| {
        world.tick(at);
        let jobs = world.jobs.clone();
        world.run(1, 1, at);
        jobs
    };
    for at in 1..4 {
        assert!(world.state.taken("a7").is_some());
        assert!(looked_at(&mut world, at).iter().any(|name| &**name == "a7"), "{at}");
    }
    // All are looked at when the adapters' folder is another one, and that of use goes on.
    assert!(world.state.taken("a7").is_some());
    world.state.look_at_root(Some("/elsewhere".into()));
    assert_eq!(looked_at(&mut world, 5).len(), names.len());
    assert!(world.state.taken("a7").is_some());
    let jobs = looked_at(&mut world, 6);
    assert!(jobs.len() < 10 && jobs.iter().any(|name| &**name == "a7"), "{jobs:?}");
    // Without any use, the sweep looks at each in its turn.
    let mut seen = std::collections::BTreeSet::new();
    for at in 7..60 {
        seen.extend(looked_at(&mut world, at));
    }
    assert_eq!(seen.len(), names.len());
}
