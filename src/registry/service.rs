//! How a version comes into service and leaves it.
//!
//! A version that was read is offered here. If it does not fit into memory because adapters in use hold their room, it waits in a
//! line. Its turn is certain: once it has waited for [`ROOM_TIMEOUT`], the least recently used adapters that would make room for it get no
//! new pins. Their requests wait until the version has come in, and then wait in the same line. The line is short, because its
//! versions are in memory beside the budget; further adapters wait outside of it, in order, and are read when they get a place. New
//! versions of adapters in memory have a head start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{Claim, Found, Order, OrderKind, Outside, Problem, Purpose, Reply, Version};
use super::event::Event;
use super::residents::{Fit, Key};
use super::stamp::Stamp;
use super::state::{Effect, FAILED_FOR, State, missing};
use super::status::{Status, Tier};
use super::{RegistryError, Updates};

/// A version that has waited this long for room gets it: adapters in use get no new pins then.
const ROOM_TIMEOUT: Duration = Duration::from_millis(100);

/// The maximum number of versions that wait for room. They are in memory already, beside the budget, and have at most half of its
/// bytes, unless there is only one.
const MOST_PARKED: usize = 8;

/// A new version of an adapter in memory goes before first loads that have waited at most this much longer. It takes mostly the room
/// of the version before it, which answers until then.
const HEAD_START: Duration = Duration::from_secs(2);

/// An update for which there is no room is read again after this long: others may have left memory meanwhile.
const MEMORY_PAUSE: Duration = Duration::from_secs(5);

/// The maximum number of adapters that wait for a place in the line.
const MOST_OUTSIDE: usize = 4096;

impl State {
    /// Puts a version that was read into service, at once or when there is room.
    pub(super) fn offer(&mut self, name: &Arc<str>, found: Found, purpose: Purpose, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Found { folder, stamp, digest, checked } = found;
        let same = entry.current.as_ref().is_some_and(|version| version.digest == digest);
        if let Some(error) = self.refusal(name, &purpose, same) {
            self.free(checked.map(|checked| Arc::new(checked.adapter)));
            return self.fail(name, purpose, Some(stamp), error, now);
        }
        let entry = self.entry(name);
        let key = entry.current.as_ref().filter(|_| same).map(|version| version.key.clone());
        if let Some(key) = key.filter(|key| self.residents.contains(key)) {
            self.free(checked.map(|checked| Arc::new(checked.adapter)));
            return self.confirm(&key, folder, stamp, purpose);
        }
        let Some(checked) = checked else {
            // It has left memory while it was read. The next job reads it again.
            if let Purpose::Order(order) = purpose {
                self.entry(name).orders.push_front(order);
            }
            return;
        };
        let (facts, adapter) = (checked.facts, Arc::new(checked.adapter));
        let name = Arc::clone(name);
        let (asked, since, drains) = (now, now, false);
        self.place(Claim { name, folder, stamp, digest, facts, adapter, purpose, asked, since, drains }, now);
    }

    /// Why a version that was read must not come into service.
    fn refusal(&mut self, name: &str, purpose: &Purpose, same: bool) -> Option<RegistryError> {
        let (manual, stopped) = (self.updates == Updates::Manual, self.stopped);
        let entry = self.entry(name);
        match purpose {
            _ if stopped => Some(RegistryError::Stopped),
            Purpose::Order(order) => {
                let deleted = || (order.number < entry.deleted).then(|| RegistryError::Deleted { name: name.into() });
                entry.agrees(name, order.expected).err().or_else(deleted)
            }
            _ if entry.withdrawn => Some(missing(name)),
            _ if manual && !same && entry.current.is_some() => {
                Some(RegistryError::Changed { name: name.into(), folder: entry.folder.clone() })
            }
            _ => None,
        }
    }

    /// The files hold the version that is in service and in memory. They were written again, or are in another folder.
    fn confirm(&mut self, key: &Key, folder: PathBuf, stamp: Stamp, purpose: Purpose) {
        self.residents.set_unreadable(key, false);
        let entry = self.entry(&key.name);
        if let Some(version) = &mut entry.current {
            version.stamp = stamp;
        }
        (entry.folder, entry.change, entry.problem) = (folder, None, None);
        if let Purpose::Order(order) = purpose {
            self.reply(&key.name, order.reply);
        }
    }

    /// Commits a version if there is room for it, and else puts it into the line.
    fn place(&mut self, mut claim: Claim, now: Instant) {
        let recalled = self.entry(&claim.name).recalled.take();
        claim.asked = recalled.unwrap_or(now);
        let (bytes, budget) = (claim.facts.bytes, self.residents.budget());
        let name = String::from(&*claim.name);
        let error = if bytes > budget {
            RegistryError::TooLarge { name, bytes, budget }
        } else {
            // Nobody passes a version that has waited for long.
            let urgent = self.claims.front().is_some_and(|front| front.drains);
            match self.fit(&claim) {
                Fit::Now(victims) if !urgent => return self.commit(claim, victims, now),
                Fit::Never(held) => RegistryError::NoRoom { name, bytes, held, budget },
                // Nobody passes those who wait outside.
                Fit::Now(_) | Fit::Later(_)
                    if self.has_place(bytes) && (recalled.is_some() || self.outside.is_empty()) =>
                {
                    self.entry(&name).parked = true;
                    let turn = self.turn(&claim);
                    // Nobody passes the first one, for which adapters may be drained.
                    let behind = self.claims.iter().skip(1).filter(|other| self.turn(other) <= turn).count();
                    self.claims.insert((behind + 1).min(self.claims.len()), claim);
                    return self.admit(now);
                }
                Fit::Now(_) | Fit::Later(_) if self.outside.len() < MOST_OUTSIDE => {
                    self.entry(&name).parked = true;
                    let turn = self.turn(&claim);
                    let Claim { name, adapter, purpose, asked, .. } = claim;
                    self.free(Some(adapter));
                    let place = self.outside.partition_point(|other| other.turn <= turn);
                    return self.outside.insert(place, Outside { name, bytes, purpose, asked, turn });
                }
                Fit::Now(_) | Fit::Later(_) => self.busy(&claim.name, bytes),
            }
        };
        self.refuse_claim(claim, error, now);
    }

    /// Ends the wait of a version that does not come into service.
    fn refuse_claim(&mut self, claim: Claim, error: RegistryError, now: Instant) {
        self.free(Some(claim.adapter));
        self.fail(&claim.name, claim.purpose, Some(claim.stamp), error, now);
    }

    fn fit(&self, claim: &Claim) -> Fit {
        let current = self.entries.get(&claim.name).and_then(|entry| entry.current.as_ref());
        self.residents.fit(claim.facts.bytes, current.map(|version| &version.key))
    }

    /// The time by which a version has its turn: the earliest first.
    fn turn(&self, claim: &Claim) -> Instant {
        let current = self.entries.get(&claim.name).and_then(|entry| entry.current.as_ref());
        let is_update = current.is_some_and(|version| self.residents.contains(&version.key));
        if is_update { claim.asked.checked_sub(HEAD_START).unwrap_or(claim.asked) } else { claim.asked }
    }

    /// Whether a version of `bytes` bytes may wait for room.
    fn has_place(&self, bytes: usize) -> bool {
        let parked: usize = self.claims.iter().map(|claim| claim.facts.bytes).sum();
        self.claims.is_empty() || (self.claims.len() < MOST_PARKED && parked + bytes <= self.residents.budget() / 2)
    }

    fn busy(&self, name: &str, bytes: usize) -> RegistryError {
        RegistryError::Busy { name: name.into(), bytes, held: self.residents.held(), budget: self.residents.budget() }
    }

    /// The error where adapters of one request, all of which have been loaded, do not stay in memory together. `last` left it last.
    pub(super) fn not_together<'a>(&self, names: impl Iterator<Item = &'a str>, last: &str) -> RegistryError {
        let names: BTreeSet<&str> = names.collect();
        let known = |name: &&str| self.entries.get(*name).and_then(|entry| entry.current.as_ref());
        let bytes = names.iter().filter_map(known).map(|version| version.facts.bytes).sum();
        let (adapters, budget) = (names.len(), self.residents.budget());
        if bytes > budget {
            return RegistryError::TooLargeTogether { adapters, bytes, budget };
        }
        self.busy_again(last)
    }

    /// The error where an adapter that waited for room is not read again.
    fn busy_again(&self, name: &str) -> RegistryError {
        let current = self.entries.get(name).and_then(|entry| entry.current.as_ref());
        self.busy(name, current.map_or(0, |version| version.facts.bytes))
    }

    /// Gives the next adapter that waits outside a place in the line.
    fn recall(&mut self, now: Instant) {
        while let Some(Outside { name, purpose, asked, .. }) = self.outside.pop_front() {
            let current = self.entries.get(&name).and_then(|entry| entry.current.as_ref());
            let resident = current.is_some_and(|version| self.residents.contains(&version.key));
            let entry = self.entry(&name);
            entry.parked = false;
            let wanted = match purpose {
                Purpose::Load => entry.waiters.iter().any(|waiter| !waiter.is_closed()),
                // One that was evicted is read anew when it is asked for.
                Purpose::Look => {
                    entry.look = resident;
                    resident
                }
                Purpose::Order(order) => {
                    let wanted = !order.reply.is_closed();
                    entry.orders.push_front(order);
                    wanted
                }
            };
            entry.recalled = Some(asked).filter(|_| wanted);
            self.serve(&name, now);
            self.prune(&name, now);
            if wanted {
                return;
            }
        }
    }

    /// Ends the wait of adapters outside the line that have waited for too long, and lets one in if the line is empty.
    pub(super) fn expire(&mut self, now: Instant) {
        let limit = self.room_wait;
        let is_late = |outside: &Outside| now.saturating_duration_since(outside.asked) >= limit;
        while let Some(late) = self.outside.iter().position(is_late)
            && let Some(Outside { name, bytes, purpose, .. }) = self.outside.remove(late)
        {
            self.entry(&name).parked = false;
            let error = self.busy(&name, bytes);
            self.fail(&name, purpose, None, error, now);
            self.serve(&name, now);
            self.prune(&name, now);
        }
        if self.claims.is_empty() {
            self.recall(now);
        }
    }

    /// Lets the versions in the line come in, as far as there is room.
    pub(super) fn admit(&mut self, now: Instant) {
        while let Some(mut claim) = self.claims.pop_front() {
            let unwanted = matches!(claim.purpose, Purpose::Load)
                && self.entry(&claim.name).waiters.iter().all(|waiter| waiter.is_closed());
            let fit = self.fit(&claim);
            let [waited, whole] = [claim.since, claim.asked].map(|since| now.saturating_duration_since(since));
            if let Fit::Later(victims) = &fit
                && !unwanted
                && whole < self.room_wait
            {
                if waited >= ROOM_TIMEOUT && !claim.drains {
                    self.residents.drain(victims);
                    claim.drains = true;
                }
                return self.claims.push_front(claim);
            }
            self.entry(&claim.name).parked = false;
            let drained = if claim.drains { self.residents.undrain() } else { Vec::new() };
            let (name, bytes, budget) = (Arc::clone(&claim.name), claim.facts.bytes, self.residents.budget());
            match fit {
                _ if unwanted => self.free(Some(claim.adapter)),
                Fit::Now(victims) => self.commit(claim, victims, now),
                Fit::Later(_) => {
                    let error = self.busy(&name, bytes);
                    self.refuse_claim(claim, error, now);
                }
                Fit::Never(held) => {
                    let error = RegistryError::NoRoom { name: (&*name).into(), bytes, held, budget };
                    self.refuse_claim(claim, error, now);
                }
            }
            self.serve(&name, now);
            self.prune(&name, now);
            // Their requests waited. Those that were evicted are loaded again for them.
            for name in drained {
                self.serve(&name, now);
            }
            self.recall(now);
        }
    }

    /// Puts a version into service, in the room of `victims`. Requests that run finish on the version before it.
    fn commit(&mut self, claim: Claim, victims: Vec<Key>, now: Instant) {
        // A `PUT` or `DELETE` may have come between.
        let current = self.entry(&claim.name).current.as_ref();
        let same = current.is_some_and(|version| version.digest == claim.digest);
        if let Some(error) = self.refusal(&claim.name, &claim.purpose, same) {
            return self.refuse_claim(claim, error, now);
        }
        for key in victims {
            let left = self.residents.remove(&key);
            self.free(left);
            if key.name != claim.name {
                self.counters.evictions += 1;
                self.effects.push(Effect::Log(Event::Evicted { key }));
            }
        }
        let Claim { name, folder, stamp, digest, facts, adapter, purpose, .. } = claim;
        let before = self.entry(&name).current.take();
        let bytes = facts.bytes;
        let requests = before.as_ref().map(|version| Arc::clone(&version.requests)).unwrap_or_default();
        let (reloaded, swapped) = match before {
            Some(version) if version.digest == digest => (Some(version.key), None),
            other => (None, other.map(|version| version.key)),
        };
        let key = reloaded.clone().unwrap_or_else(|| {
            self.last_generation += 1;
            Key { name: Arc::clone(&name), generation: self.last_generation }
        });
        if let Some(old) = &swapped {
            let left = self.residents.retire(old);
            self.free(left);
            self.counters.swaps += 1;
        }
        if let Some(warning) = facts.warning.clone().filter(|_| reloaded.is_none()) {
            self.effects.push(Effect::Log(Event::Warning { name: Arc::clone(&name), warning }));
        }
        self.counters.loads += 1;
        self.effects.push(Effect::Log(match &swapped {
            Some(old) => Event::Swapped { key: key.clone(), before: old.generation, bytes },
            None => Event::Loaded { key: key.clone(), bytes, again: reloaded.is_some() },
        }));
        let entry = self.entry(&name);
        entry.current = Some(Version { key: key.clone(), digest, stamp, facts: Arc::new(facts), requests });
        (entry.folder, entry.withdrawn) = (folder, false);
        (entry.change, entry.problem, entry.failed) = (None, None, None);
        let kept = entry.kept;
        self.residents.insert(key, adapter, kept);
        if let Purpose::Order(order) = purpose {
            self.reply(&name, order.reply);
        }
    }

    /// Notes that a version cannot come into service, and answers those who wait for it.
    pub(super) fn fail(
        &mut self,
        name: &Arc<str>,
        purpose: Purpose,
        stamp: Option<Stamp>,
        error: RegistryError,
        now: Instant,
    ) {
        if matches!(error, RegistryError::RootGone) {
            self.look_at_root(None);
        }
        match purpose {
            Purpose::Order(order) => {
                let is_failed = matches!(order.kind, OrderKind::Put(_)) && error.is_failed_load();
                self.counters.failed_loads += u64::from(is_failed);
                if matches!((&order.kind, &error), (OrderKind::Describe, RegistryError::NotFound { .. })) {
                    self.retire(name);
                }
                self.effects.push(Effect::Reply(order.reply, Box::new(Err(error))));
            }
            Purpose::Look => self.refuse(name, stamp, error, now),
            Purpose::Load => {
                if matches!(error, RegistryError::NotFound { .. }) {
                    self.retire(name);
                }
                self.counters.failed_loads += u64::from(error.is_failed_load());
                let entry = self.entry(name);
                let mut logged = true;
                if error.is_lasting() {
                    // Where others take the room, the files are not at fault.
                    let problem = Problem::new(stamp.filter(|_| !error.lacks_memory()), &error);
                    logged = entry.problem.as_ref().is_some_and(|before| before.reason == problem.reason);
                    entry.failed = Some((now + FAILED_FOR, error.clone()));
                    entry.problem = Some(problem);
                }
                let waiters = std::mem::take(&mut entry.waiters);
                if !logged {
                    self.effects.push(Effect::Log(Event::Failed { name: Arc::clone(name), reason: error.to_string() }));
                }
                self.effects.extend(waiters.into_iter().map(|waiter| Effect::Answer(waiter, Err(error.clone()))));
            }
        }
    }

    /// Notes why the files on disk are not served. The version in memory serves on, unless its folder is gone.
    fn refuse(&mut self, name: &Arc<str>, stamp: Option<Stamp>, error: RegistryError, now: Instant) {
        if matches!(error, RegistryError::NotFound { .. }) {
            self.retire(name);
            return self.prune(name, now);
        }
        let manual = matches!(error, RegistryError::Changed { .. });
        let Some(entry) = self.entries.get_mut(name) else { return };
        let stamp = stamp.or(entry.change.map(|(stamp, _)| stamp));
        entry.change = None;
        if matches!(error, RegistryError::Busy { .. }) {
            entry.problem = Some(Problem::new(None, &error));
        }
        let lacks_memory = error.lacks_memory();
        // Other errors, such as files that change again or a disk that fails, may be gone at the next look.
        if error.is_lasting() || lacks_memory {
            // Without a stamp, the same files are looked at again.
            let mut problem = Problem::new(stamp.filter(|_| !error.may_pass()), &error);
            problem.until = lacks_memory.then(|| now + MEMORY_PAUSE);
            let reason = problem.reason.clone();
            let may_repeat = error.may_pass() || lacks_memory;
            let logged = may_repeat && entry.problem.as_ref().is_some_and(|before| before.reason == reason);
            entry.problem = Some(problem);
            if let Some(version) = entry.current.as_ref().filter(|_| error.is_lasting()) {
                self.residents.set_unreadable(&version.key, true);
            }
            if !logged {
                self.counters.refused_updates += u64::from(!manual);
                self.effects.push(Effect::Log(Event::Refused { name: Arc::clone(name), reason }));
            }
        } else {
            self.touch(name);
        }
    }

    /// Takes the adapter out of service until it is found or put again.
    fn retire(&mut self, name: &str) {
        let entry = self.entry(name);
        (entry.change, entry.problem, entry.failed) = (None, None, None);
        let Some(version) = entry.current.take() else { return };
        let left = self.residents.retire(&version.key);
        self.free(left);
        self.effects.push(Effect::Log(Event::Removed { key: version.key }));
    }

    /// Takes the adapter out of service until it is put again.
    pub(super) fn withdraw(&mut self, name: &Arc<str>, order: Order, now: Instant) {
        if let Err(error) = self.entry(name).agrees(name, order.expected) {
            return self.fail(name, Purpose::Order(order), None, error, now);
        }
        let mut status = self.snapshot(name).map_or_else(|| Status::unknown(name), Status::from);
        status.tier = Tier::Disk;
        self.retire(name);
        let entry = self.entry(name);
        (entry.withdrawn, entry.deleted) = (true, order.number);
        let waiters = std::mem::take(&mut entry.waiters);
        self.effects.extend(waiters.into_iter().map(|waiter| Effect::Answer(waiter, Err(missing(name)))));
        self.effects.push(Effect::Reply(order.reply, Box::new(Ok(status))));
    }

    /// Answers an order with the adapter's status.
    pub(super) fn reply(&mut self, name: &str, reply: Reply) {
        let status = self.snapshot(name).map(Status::from).ok_or_else(|| missing(name));
        self.effects.push(Effect::Reply(reply, Box::new(status)));
    }
}
