//! What the registry, its pins and its threads share: the state under its lock, and what happens outside of the lock.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::files;
use super::loader::{Job, Loader, lock};
use super::pin::{Holder, Pin};
use super::residents::Key;
use super::stamp::{Stamp, is_absent};
use super::state::{Effect, State};
use super::status::Status;
use super::{FirstAdapters, RegistryError, Source};
use crate::adapter::{AdapterError, Summary};

/// What each adapter's header says, by the adapter's name, and the stamp of its files; or why they cannot be served.
type Summaries = HashMap<String, (Stamp, Result<Summary, RegistryError>)>;

pub(super) struct Shared {
    pub(super) source: Arc<dyn Source>,
    /// The adapters' folder as it was given.
    pub(super) root: PathBuf,
    pub(super) strict_base: bool,
    /// The most bytes that all adapters may take.
    pub(super) budget: usize,
    state: Mutex<State>,
    pub(super) loader: Loader,
    /// What the files of adapters that were never loaded show, by folder.
    summaries: Mutex<Summaries>,
    /// Called when a load finds the device lost.
    pub(super) on_device_lost: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Shared {
    pub(super) fn new(source: Arc<dyn Source>, root: PathBuf, strict_base: bool, state: State) -> Self {
        let budget = state.residents.budget();
        let (state, summaries) = (Mutex::new(state), Mutex::default());
        Self {
            source,
            root,
            strict_base,
            budget,
            state,
            loader: Loader::default(),
            summaries,
            on_device_lost: OnceLock::new(),
        }
    }

    /// Changes the state, and then does outside of its lock what the change asks for.
    pub(super) fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        let effects = std::mem::take(&mut state.effects);
        drop(state);
        for effect in effects {
            match effect {
                // A caller that is gone drops its pin here.
                Effect::Answer(waiter, taken) => {
                    drop(waiter.send(taken.map(|taken| Pin::new(taken, Arc::clone(self) as Arc<dyn Holder>))))
                }
                Effect::Reply(reply, status) => drop(reply.send(*status)),
                Effect::Run(name, urgency) => self.loader.push(self, Job::Adapter(name), urgency),
                Effect::Free(adapter) => drop(adapter),
                Effect::Log(event) => event.log(),
            }
        }
        result
    }

    /// All adapters: those in the folder, and those in service from other folders. Reads the disk.
    pub(super) fn list(self: &Arc<Self>) -> Result<Vec<Status>, RegistryError> {
        let found = self.found()?;
        let layout = self.source.layout();
        let summaries = self.summaries(&found);
        let (served, others) = self.with(|state| {
            for (name, folder) in &found {
                folder.iter().for_each(|folder| state.compare(name, &folder.stamp));
            }
            // A folder for which the disk fails counts only if it was an adapter before.
            let is_known = |name: &str| summaries.contains_key(name) || state.snapshot(name).is_some();
            let others = found.iter().filter(|(name, folder)| folder.is_some() || is_known(name));
            let others = others.filter(|(name, _)| !state.is_withdrawn(name) && !state.is_elsewhere(name));
            (state.snapshots(), others.map(|found| (found, state.snapshot(&found.0))).collect::<Vec<_>>())
        });
        let served = served.into_iter().map(|snapshot| (snapshot.name.to_string(), Status::from(snapshot)));
        let mut statuses: BTreeMap<String, Status> = served.collect();
        for ((name, _), snapshot) in others {
            let summary = summaries.get(name).map(|(_, summary)| summary.as_ref());
            let status = snapshot.map_or_else(|| Status::unknown(name), Status::from);
            statuses.entry(name.clone()).or_insert_with(|| status.with_summary(summary, layout));
        }
        let statuses = statuses.into_values().collect();
        *lock(&self.summaries) = summaries;
        Ok(statuses)
    }

    /// The names of the adapters in the folder, and their folders. Of a subfolder for which the disk fails, those that were known are kept.
    fn found(&self) -> Result<Vec<(String, Option<files::Folder>)>, RegistryError> {
        let files::Names { mut found, unreadable } = files::names(&self.root).map_err(of_root)?;
        if let Some(folder) = unreadable.first() {
            // Without an earlier list, those inside would be missing without a word.
            if lock(&self.summaries).is_empty() {
                return Err(RegistryError::RootUnreadable { reason: format!("{folder}: the disk fails") });
            }
            let is_inside =
                |name: &str| name.split_once('/').is_some_and(|(outer, _)| unreadable.iter().any(|u| u == outer));
            found.extend(lock(&self.summaries).keys().filter(|name| is_inside(name)).map(|name| (name.clone(), None)));
        }
        Ok(found)
    }

    /// The first `most` adapters in the folder. Reads the disk.
    pub(super) fn first(&self, most: usize) -> Result<FirstAdapters, RegistryError> {
        let mut first = FirstAdapters::default();
        let see = |name, found: Result<files::Folder, RegistryError>| {
            match found {
                Ok(_) if first.names.len() == most => {
                    first.others = true;
                    return ControlFlow::Break(());
                }
                Ok(_) => first.names.push(name),
                // A link may also lead to a folder that is no adapter.
                Err(RegistryError::OutsideRoot { .. })
                    if Stamp::of(&self.root.join(&name)).is_ok_and(|stamp| stamp.is_adapter()) =>
                {
                    first.outside.push(name);
                }
                Err(_) => {}
            }
            ControlFlow::Continue(())
        };
        first.unreadable = files::visit(&self.root, see).map_err(of_root)?;
        Ok(first)
    }

    /// What the headers of the adapters' files say, by name. It is kept for as long as the files are the same, and while the disk fails, so
    /// that this is unknown.
    fn summaries(&self, found: &[(String, Option<files::Folder>)]) -> Summaries {
        let mut known = std::mem::take(&mut *lock(&self.summaries));
        let mut of = |name: &String, folder: Option<&files::Folder>| {
            let before = known.remove(name);
            let Some(folder) = folder else { return before };
            before.filter(|(stamp, _)| *stamp == folder.stamp).or_else(|| match self.source.summary(&folder.path) {
                Ok(summary) => Some((folder.stamp, Ok(summary))),
                Err(error) => {
                    let may_be_copied = matches!(error, AdapterError::Io { .. }) && files::is_recent(&folder.stamp);
                    let error = self.place(name, Path::new(name)).invalid(error.into());
                    // Otherwise it may be read next time, although the files are the same.
                    let lasts = error.is_lasting() && !error.may_pass() && !may_be_copied;
                    lasts.then_some((folder.stamp, Err(error)))
                }
            })
        };
        found.iter().filter_map(|(name, folder)| Some((name.clone(), of(name, folder.as_ref())?))).collect()
    }

    pub(super) fn place<'a>(&'a self, name: &'a str, folder: &'a Path) -> files::Place<'a> {
        files::Place { root: &self.root, name, folder }
    }
}

/// The error where the adapters' folder itself cannot be read.
fn of_root(source: io::Error) -> RegistryError {
    if is_absent(&source) {
        RegistryError::RootGone
    } else {
        RegistryError::RootUnreadable { reason: source.to_string() }
    }
}

impl Holder for Shared {
    fn pin(self: Arc<Self>, key: &Key) {
        self.with(|state| state.residents.pin(key));
    }

    fn unpin(self: Arc<Self>, key: &Key) {
        self.with(|state| state.unpin(key, Instant::now));
    }
}
