//! The thread of a registry that keeps the time: it asks for looks at the adapters' files, by which changes are noticed, and ends
//! requests that have waited too long. It only queues jobs, so that a dead disk does not stop it.
//!
//! Looks cost three system calls each. An adapter that was used since the last tick is looked at in the next one, and the others in
//! turn. Evicted ones are looked at too, because an adapter whose folder is gone leaves service, and broken ones, because they may be
//! repaired.
//!
//! Polling sees every change on every file system, also on network volumes and behind links, where the system would send no
//! notification.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::entry::JobOutcome;
use super::event::Event;
use super::loader::Urgency;
use super::shared::Shared;
use super::stamp::Stamp;
use super::state::{Effect, State};

/// The time between ticks.
const TICK: Duration = Duration::from_millis(50);

/// The adapters' folder itself is looked at in every tick of this number.
const ROOT_TICKS: u64 = 2;

/// All adapters in service, and those that are broken, are looked at within this many ticks, used or not.
const SWEEP_TICKS: usize = 40;

/// The most adapters for which it is remembered why they are not in service, besides those whose files are broken.
pub(super) const MOST_FAILED: usize = 256;

/// Starts the thread. It ends when the registry is closed.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    let shared = Arc::downgrade(shared);
    thread::Builder::new().name("polyrank-watch".into()).spawn(move || run(&shared)).map(drop)
}

fn run(shared: &Weak<Shared>) {
    for tick in 0u64.. {
        thread::sleep(TICK);
        let Some(shared) = shared.upgrade() else { return };
        if shared.with(|state| state.is_stopped()) {
            return;
        }
        if tick.is_multiple_of(ROOT_TICKS) {
            shared.loader.look_at_root(&shared);
        }
        shared.with(|state| state.tick(Instant::now()));
        shared.loader.staff(&shared);
    }
}

impl State {
    /// Gives versions that waited long enough their room, and has the files of adapters looked at.
    pub(super) fn tick(&mut self, now: Instant) {
        self.admit(now);
        self.expire(now);
        self.forget(now);
        if self.root_gone {
            return;
        }
        for name in std::mem::take(&mut self.touched) {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.touched = false;
            }
            self.look(&name, now);
        }
        if self.sweep.0.is_empty() {
            let looked_at = self.entries.iter().filter(|(_, entry)| entry.current.is_some() || entry.is_broken());
            let names: Vec<_> = looked_at.map(|(name, _)| Arc::clone(name)).collect();
            let step = names.len().div_ceil(SWEEP_TICKS);
            self.sweep = (names, step);
        }
        let (names, step) = &mut self.sweep;
        for name in names.split_off(names.len().saturating_sub(*step)) {
            self.look(&name, now);
        }
    }

    /// Forgets why loads failed once there are many of them: clients may make up names whose loads fail.
    fn forget(&mut self, now: Instant) {
        let idle = self.entries.iter().filter(|(name, entry)| entry.is_idle(name, now)).count();
        if idle > MOST_FAILED {
            self.entries.retain(|name, entry| !entry.is_idle(name, now));
        }
    }

    /// Has the files of an adapter looked at that is in service or broken.
    fn look(&mut self, name: &Arc<str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if (entry.current.is_some() || entry.is_broken()) && !entry.parked {
            entry.look = true;
            self.queue(name, Urgency::Look, now);
        }
    }

    /// Notes a look at the adapters' folder: its path without links, or `None` if it is gone.
    pub(super) fn look_at_root(&mut self, root: Option<PathBuf>) {
        let gone = root.is_none();
        if std::mem::replace(&mut self.root_gone, gone) != gone {
            self.effects.push(Effect::Log(Event::Root { gone }));
        }
        if let Some(root) = root
            && self.root.as_ref() != Some(&root)
        {
            // Every adapter may be another one in the new folder.
            self.sweep.0.clear();
            let names: Vec<_> = self.residents.keys().map(|key| Arc::clone(&key.name)).collect();
            names.iter().for_each(|name| self.touch(name));
            self.root = Some(root);
        }
    }

    /// Has the files looked at in the next tick.
    pub(super) fn touch(&mut self, name: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(name)
            && !std::mem::replace(&mut entry.touched, true)
        {
            self.touched.push(Arc::clone(name));
        }
    }

    /// Has the files of the adapter in the folder `name` looked at, if `stamp` is not that of the version in service. The problem of an
    /// adapter that is not in memory is gone with the files that had it.
    pub(super) fn compare(&mut self, name: &str, stamp: &Stamp) {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| !entry.is_elsewhere(name)) else { return };
        let resident = entry.current.as_ref().is_some_and(|version| self.residents.contains(&version.key));
        if !resident {
            entry.seen(stamp);
        }
        if let Some(version) = entry.current.as_ref().filter(|version| version.stamp != *stamp) {
            let name = Arc::clone(&version.key.name);
            self.touch(&name);
        }
    }

    /// Notes the state of an adapter's files.
    pub(super) fn looked(&mut self, name: &Arc<str>, outcome: JobOutcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        match outcome {
            JobOutcome::Changing(stamp) => {
                if entry.change.is_none() {
                    entry.changing = Some(now);
                }
                let since = entry.change.filter(|(before, _)| *before == stamp).map_or(now, |(_, since)| since);
                entry.change = Some((stamp, since));
                self.touch(name);
            }
            JobOutcome::StillRefused => entry.change = None,
            outcome => {
                if let Some(version) = &mut entry.current {
                    self.residents.set_unreadable(&version.key, false);
                    if let JobOutcome::Rewritten(stamp) = outcome {
                        version.stamp = stamp;
                    }
                }
                (entry.change, entry.problem) = (None, None);
            }
        }
    }
}
