//! The state of a registry and all its transitions. Nothing here touches a disk, waits, or reads a clock: times are arguments, and
//! what has to happen outside (answers, jobs for the loader, lines of the log) is collected as effects.
//!
//! A name goes this way: `ask` finds it in memory, or queues a job. The loader calls `begin`, reads the files, and calls `finish`.
//! `service.rs` has what follows: a version that was read is offered, and comes into service once there is room for it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::entry::{Claim, Entry, Failure, JobOutcome, Order, OrderKind, Outside, Purpose, Reply, Waiter, Work};
use super::event::Event;
use super::loader::Urgency;
use super::pin::{Pin, Taken};
use super::residents::{Key, Residents};
use super::status::{Cause, Counters, Snapshot, Status, Tier};
use super::{RegistryError, Settings, Updates, files};
use crate::adapter::Adapter;

/// A failed load answers requests for this long, so that a broken adapter is not read once for each of them.
pub(super) const FAILED_FOR: Duration = Duration::from_secs(1);

/// The maximum number of requests that wait for one adapter.
pub(super) const MOST_WAITERS: usize = 1024;

/// The maximum number of orders that wait for one adapter.
pub(super) const MOST_ORDERS: usize = 64;

/// The maximum number of jobs for the loader.
pub(super) const MOST_QUEUED: usize = 8192;

/// A request does not join a load that has taken this long: the disk may be dead.
const SLOW: Duration = Duration::from_secs(2);

/// A request does not join a load that has been queued for this long.
const SLOW_QUEUE: Duration = Duration::from_secs(10);

/// What has to happen once the state is unlocked.
pub(super) enum Effect {
    /// Answers a caller that waits for a pin.
    Answer(Waiter, Result<Taken, RegistryError>),
    /// Answers an order.
    Reply(Reply, Box<Result<Status, RegistryError>>),
    /// Queues a job of this name.
    Run(Arc<str>, Urgency),
    /// Frees an adapter's memory.
    Free(Arc<Adapter>),
    Log(Event),
}

/// The answer to a caller that asks for a pin.
pub(super) enum Asked {
    Now(Taken),
    Wait(oneshot::Receiver<Result<Pin, RegistryError>>),
}

pub(super) struct State {
    pub(super) entries: HashMap<Arc<str>, Entry>,
    pub(super) residents: Residents,
    /// Where the residents are.
    tier: Tier,
    /// The versions that wait for room, in the order of their turns.
    pub(super) claims: VecDeque<Claim>,
    /// The adapters that wait for a place among the claims, in the order of their turns.
    pub(super) outside: VecDeque<Outside>,
    /// The adapters' folder with all links resolved, as of the last look.
    pub(super) root: Option<PathBuf>,
    pub(super) root_gone: bool,
    pub(super) stopped: bool,
    pub(super) last_generation: u64,
    /// The number of orders that were accepted.
    orders: u64,
    /// The number of entries with a job.
    queued: usize,
    pub(super) counters: Counters,
    pub(super) updates: Updates,
    pub(super) room_wait: Duration,
    /// The names that were used since the last tick, or whose files are changing.
    pub(super) touched: Vec<Arc<str>>,
    /// The adapters that this sweep has still to look at, and how many of them it looks at in a tick.
    pub(super) sweep: (Vec<Arc<str>>, usize),
    pub(super) effects: Vec<Effect>,
}

impl State {
    pub(super) fn new(settings: &Settings, tier: Tier) -> Self {
        Self {
            entries: HashMap::new(),
            residents: Residents::new(settings.budget),
            tier,
            claims: VecDeque::new(),
            outside: VecDeque::new(),
            root: None,
            root_gone: false,
            stopped: false,
            last_generation: 0,
            orders: 0,
            queued: 0,
            counters: Counters::default(),
            updates: settings.updates,
            room_wait: settings.room_wait,
            touched: Vec::new(),
            sweep: (Vec::new(), 0),
            effects: Vec::new(),
        }
    }

    // Requests.

    /// A pin of the version in service, if it is in memory.
    pub(super) fn taken(&mut self, name: &str) -> Option<Taken> {
        if self.root_gone {
            return None;
        }
        let entry = self.entries.get_mut(name)?;
        let version = entry.current.as_ref()?;
        let adapter = self.residents.take(&version.key)?;
        if !std::mem::replace(&mut entry.touched, true) {
            self.touched.push(Arc::clone(&version.key.name));
        }
        Some(Taken { key: version.key.clone(), adapter, requests: Arc::clone(&version.requests) })
    }

    /// Counts requests whose adapter was in memory.
    pub(super) fn hit(&mut self, requests: usize) {
        self.counters.hits += requests as u64;
    }

    /// Asks for a pin, and queues a load where it needs one.
    pub(super) fn ask(&mut self, name: &str, now: Instant) -> Result<Asked, RegistryError> {
        if let Some(taken) = self.taken(name) {
            self.hit(1);
            return Ok(Asked::Now(taken));
        }
        self.admissible(name)?;
        let queued = self.queued;
        let entry = self.entry(name);
        if entry.withdrawn {
            return Err(missing(name));
        }
        if let Some((_, error)) = entry.failed.as_ref().filter(|(until, _)| *until > now) {
            return Err(error.clone());
        }
        let age = |since: Option<Instant>| since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let taken = age(entry.queued);
        if age(entry.running) >= SLOW || taken >= SLOW_QUEUE {
            return Err(RegistryError::Slow { name: name.into(), taken });
        }
        if entry.waiters.len() >= MOST_WAITERS {
            entry.waiters.retain(|waiter| !waiter.is_closed());
        }
        if entry.waiters.len() >= MOST_WAITERS {
            return Err(RegistryError::TooManyWaiters { name: name.into(), limit: MOST_WAITERS });
        }
        if queued >= MOST_QUEUED {
            self.prune(name, now);
            return Err(RegistryError::TooManyLoads { limit: MOST_QUEUED });
        }
        let (waiter, answer) = oneshot::channel();
        entry.waiters.push(waiter);
        self.serve(&Arc::from(name), now);
        Ok(Asked::Wait(answer))
    }

    /// Carries out an order once the orders before it are done. A `DELETE` of what is in service is carried out at once, and undoes the
    /// `PUT`s before it.
    pub(super) fn order(&mut self, name: &str, mut order: Order, now: Instant) {
        let fits = match self.admissible(name) {
            Ok(()) => {
                let entry = self.entry(name);
                entry.orders.retain(|order| !order.reply.is_closed());
                let waiting = entry.orders.len();
                let full = RegistryError::TooManyWaiters { name: name.into(), limit: waiting };
                let known = matches!(order.kind, OrderKind::Put(_)) || !entry.withdrawn;
                let known = if known { Ok(()) } else { Err(missing(name)) };
                entry.agrees(name, order.expected).and(known).and(if waiting < MOST_ORDERS {
                    Ok(())
                } else {
                    Err(full)
                })
            }
            refused => refused,
        };
        if let Err(error) = fits {
            self.effects.push(Effect::Reply(order.reply, Box::new(Err(error))));
            return self.prune(name, now);
        }
        self.orders += 1;
        order.number = self.orders;
        if matches!(order.kind, OrderKind::Delete) && self.entry(name).current.is_some() {
            // It needs no look at the disk, which may be dead.
            return self.withdraw(&Arc::from(name), order, now);
        }
        self.entry(name).orders.push_back(order);
        self.queue(&Arc::from(name), Urgency::Wanted, now);
    }

    /// Whether a name may be asked for at all.
    fn admissible(&self, name: &str) -> Result<(), RegistryError> {
        if self.stopped {
            return Err(RegistryError::Stopped);
        }
        if self.root_gone {
            return Err(RegistryError::RootGone);
        }
        if files::is_name(name) { Ok(()) } else { Err(missing(name)) }
    }

    /// Never evicts the adapter for others.
    pub(super) fn keep(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.kept = true;
            if let Some(version) = &entry.current {
                self.residents.keep(&version.key);
            }
        }
    }

    /// Releases a pin.
    pub(super) fn unpin(&mut self, key: &Key, now: impl FnOnce() -> Instant) {
        let left = self.residents.unpin(key);
        self.free(left);
        if !self.claims.is_empty() {
            self.admit(now());
        }
    }

    /// Answers everybody who waits, and accepts nothing more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        let claims = std::mem::take(&mut self.claims).into_iter().map(|claim| claim.purpose);
        let outside = std::mem::take(&mut self.outside).into_iter().map(|outside| outside.purpose);
        for purpose in claims.chain(outside) {
            if let Purpose::Order(order) = purpose {
                self.effects.push(Effect::Reply(order.reply, Box::new(Err(RegistryError::Stopped))));
            }
        }
        for entry in self.entries.values_mut() {
            let waiters = entry.waiters.drain(..).map(|waiter| Effect::Answer(waiter, Err(RegistryError::Stopped)));
            self.effects.extend(waiters);
            let orders = entry.orders.drain(..);
            self.effects.extend(orders.map(|order| Effect::Reply(order.reply, Box::new(Err(RegistryError::Stopped)))));
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    // Jobs of the loader.

    /// What the job of this name has to do; `None` if nothing is left to do.
    pub(super) fn begin(&mut self, name: &str, now: Instant) -> Option<Work> {
        let entry = self.entries.get_mut(name)?;
        if entry.running.is_some() {
            // This one was queued again with more urgency, and the other one of the two has begun.
            return None;
        }
        entry.waiters.retain(|waiter| !waiter.is_closed());
        entry.orders.retain(|order| !order.reply.is_closed());
        let resident = entry.current.as_ref().is_some_and(|version| self.residents.contains(&version.key));
        let look = std::mem::take(&mut entry.look);
        let load = !entry.waiters.is_empty() && !resident;
        let purpose = if entry.parked || self.stopped {
            None
        } else if load && entry.ordered {
            // Else orders that keep coming would hold up a load for ever.
            Some(Purpose::Load)
        } else if let Some(order) = entry.orders.pop_front() {
            Some(Purpose::Order(order))
        } else if load {
            Some(Purpose::Load)
        } else {
            (look && (entry.current.is_some() || entry.is_broken())).then_some(Purpose::Look)
        };
        entry.ordered = matches!(purpose, Some(Purpose::Order(_)));
        let Some(purpose) = purpose else {
            entry.recalled = None;
            self.unqueue(name);
            self.prune(name, now);
            return None;
        };
        entry.running = Some(now);
        let folder = match &purpose {
            Purpose::Order(Order { kind: OrderKind::Put(folder), .. }) => folder.clone(),
            _ => entry.folder.clone(),
        };
        Some(Work {
            purpose,
            folder,
            stamp: entry.current.as_ref().map(|version| version.stamp),
            digest: entry.current.as_ref().map(|version| version.digest),
            resident,
            refused: entry.problem.as_ref().and_then(|problem| problem.refused(now)),
            change: entry.change,
        })
    }

    /// Takes the result of a job.
    pub(super) fn finish(
        &mut self,
        name: &Arc<str>,
        purpose: Purpose,
        result: Result<JobOutcome, Failure>,
        now: Instant,
    ) {
        self.unqueue(name);
        match result {
            Ok(JobOutcome::Found(found)) => self.offer(name, *found, purpose, now),
            Ok(JobOutcome::Unknown) => {}
            Ok(JobOutcome::Exists(stamp)) => {
                if let Some((entry, stamp)) = self.entries.get_mut(name).zip(stamp) {
                    entry.seen(&stamp);
                }
                if let Purpose::Order(order) = purpose {
                    match order.kind {
                        OrderKind::Delete => self.withdraw(name, order, now),
                        OrderKind::Describe | OrderKind::Put(_) => self.reply(name, order.reply),
                    }
                }
            }
            Ok(looked) => self.looked(name, looked, now),
            Err(Failure { error, stamp }) => self.fail(name, purpose, stamp, error, now),
        }
        if let Some(entry) = self.entries.get_mut(name) {
            entry.recalled = None;
        }
        self.serve(name, now);
        self.prune(name, now);
    }

    // Small steps.

    /// The entry of a name, made if need be.
    pub(super) fn entry(&mut self, name: &str) -> &mut Entry {
        self.entries.entry(Arc::from(name)).or_insert_with(|| Entry::new(PathBuf::from(name)))
    }

    /// Queues a job of this name, unless there is one. One that waits among the looks is queued again once somebody waits for it.
    pub(super) fn queue(&mut self, name: &Arc<str>, urgency: Urgency, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let look = urgency == Urgency::Look;
        let promoted = entry.queued_look && entry.running.is_none() && !look;
        if (entry.queued.is_some() && !promoted) || self.stopped {
            return;
        }
        if entry.queued.replace(now).is_none() {
            self.queued += 1;
        }
        entry.queued_look = look;
        self.effects.push(Effect::Run(Arc::clone(name), urgency));
    }

    fn unqueue(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.running = None;
        if entry.queued.take().is_some() {
            self.queued -= 1;
        }
    }

    /// Answers those who wait for the adapter, if it is in memory; else queues what has to be done for them.
    pub(super) fn serve(&mut self, name: &Arc<str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let resident = entry.current.as_ref().filter(|version| self.residents.contains(&version.key));
        if let Some(version) = resident {
            // While it is being drained, its requests wait until it may be used again.
            while let Some(waiter) = entry.waiters.pop() {
                let Some(adapter) = self.residents.take(&version.key) else {
                    entry.waiters.push(waiter);
                    break;
                };
                let taken = Taken { key: version.key.clone(), adapter, requests: Arc::clone(&version.requests) };
                self.effects.push(Effect::Answer(waiter, Ok(taken)));
            }
        }
        let wanted = !entry.orders.is_empty() || (!entry.waiters.is_empty() && resident.is_none());
        if (wanted || entry.look) && !entry.parked {
            self.queue(name, if wanted { Urgency::Wanted } else { Urgency::Look }, now);
        }
    }

    /// Forgets a name of which nothing is known, so that names that clients make up take no memory.
    pub(super) fn prune(&mut self, name: &str, now: Instant) {
        if self.entries.get(name).is_some_and(|entry| entry.is_idle(name, now)) {
            self.entries.remove(name);
        }
    }

    /// Frees an adapter's memory once the state is unlocked.
    pub(super) fn free(&mut self, adapter: Option<Arc<Adapter>>) {
        self.effects.extend(adapter.map(Effect::Free));
    }

    // What is known.

    /// What is known of a name that is in service or failed a moment ago. A status is made of it once the state is unlocked, because
    /// that takes time.
    pub(super) fn snapshot(&self, name: &str) -> Option<Snapshot> {
        let (name, entry) = self.entries.get_key_value(name)?;
        let version = entry.current.as_ref();
        let problem = entry.problem.as_ref().map(|problem| problem.reason.clone());
        let problem = problem.or_else(|| entry.changes().then(|| changing(name).to_string()));
        if version.is_none() && problem.is_none() {
            return None;
        }
        let resident = version.is_some_and(|version| self.residents.contains(&version.key));
        Some(Snapshot {
            name: Arc::clone(name),
            tier: if resident { self.tier } else { Tier::Disk },
            pinned: version.is_some_and(|version| self.residents.is_kept(&version.key)),
            requests: version.map_or(0, |version| version.requests.load(Ordering::Relaxed)),
            generation: entry.generation(),
            facts: version.map(|version| Arc::clone(&version.facts)),
            problem,
        })
    }

    /// What is known of the adapters in service.
    pub(super) fn snapshots(&self) -> Vec<Snapshot> {
        let served = self.entries.iter().filter(|(_, entry)| entry.current.is_some());
        served.filter_map(|(name, _)| self.snapshot(name)).collect()
    }

    /// The number of adapters that are not in service because their files cannot be loaded.
    pub(super) fn broken(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_broken()).count()
    }

    /// The adapters in service of which the files on disk are not served, and why.
    pub(super) fn unserved(&self) -> Vec<(Arc<str>, Cause)> {
        let served = self.entries.iter().filter(|(_, entry)| entry.current.is_some());
        let cause = |entry: &Entry| match &entry.problem {
            Some(problem) => Some(problem.cause),
            None => entry.changes().then_some(Cause::Changing),
        };
        served.filter_map(|(name, entry)| Some((Arc::clone(name), cause(entry)?))).collect()
    }

    /// Whether the folder `name` is not that of the adapter of this name, which a `PUT` put elsewhere.
    pub(super) fn is_elsewhere(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.is_elsewhere(name))
    }

    /// Whether a `DELETE` took the adapter out of service.
    pub(super) fn is_withdrawn(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.withdrawn)
    }
}

fn changing(name: &str) -> RegistryError {
    RegistryError::Changing { name: name.into() }
}

pub(super) fn missing(name: &str) -> RegistryError {
    RegistryError::NotFound { name: name.into() }
}
