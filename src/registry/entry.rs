//! What the registry knows about one name.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::pin::Pin;
use super::residents::Key;
use super::stamp::Stamp;
use super::status::{Cause, Checked, Facts, Status};
use super::{Expected, RegistryError};
use crate::adapter::Adapter;

/// Files that go on changing for this long are reported. Until then, a new version is expected.
const LONG_CHANGE: Duration = Duration::from_secs(1);

/// A caller that waits for a pin.
pub(super) type Waiter = oneshot::Sender<Result<Pin, RegistryError>>;

/// A caller that waits for the end of an [`Order`].
pub(super) type Reply = oneshot::Sender<Result<Status, RegistryError>>;

/// One name. An entry exists while its adapter is in service or broken, was taken out of service by a request, has its files in another
/// folder than its name says, failed a moment ago, or while somebody waits for it.
pub(super) struct Entry {
    /// The folder of its files, relative to the root. It is the name, unless a `PUT` gave another one.
    pub(super) folder: PathBuf,
    /// The version in service. It stays when it is evicted, because the files are still that version.
    pub(super) current: Option<Version>,
    /// Whether a `DELETE` took it out of service.
    pub(super) withdrawn: bool,
    /// The number of the last `DELETE`, which undoes every `PUT` that came before it.
    pub(super) deleted: u64,
    /// Whether its versions are never evicted for other adapters.
    pub(super) kept: bool,
    pub(super) waiters: Vec<Waiter>,
    pub(super) orders: VecDeque<Order>,
    /// Since when a job for this name is in the loader's queue or runs. There is one at most.
    pub(super) queued: Option<Instant>,
    /// Whether this job is only a look at the files, which runs after all jobs for which a request waits.
    pub(super) queued_look: bool,
    /// Since when this job runs.
    pub(super) running: Option<Instant>,
    /// Whether the last job was an order. Orders and loads take turns.
    pub(super) ordered: bool,
    /// Whether a version of it has been read and waits for room in memory. No job begins meanwhile.
    pub(super) parked: bool,
    /// When it began to wait for room in memory, if it waited, was let in, and is read again now.
    pub(super) recalled: Option<Instant>,
    /// The last failed load, which answers requests for a moment.
    pub(super) failed: Option<(Instant, RegistryError)>,
    /// Why the files on disk are not served.
    pub(super) problem: Option<Problem>,
    /// The state of the files that differ from those in service, and since when they have been in it.
    pub(super) change: Option<(Stamp, Instant)>,
    /// Since when the files differ from those in service, while there is a change.
    pub(super) changing: Option<Instant>,
    /// Whether its files are to be looked at.
    pub(super) look: bool,
    /// Whether it is in the list of names that were used since the last tick.
    pub(super) touched: bool,
}

/// The version in service.
pub(super) struct Version {
    pub(super) key: Key,
    pub(super) digest: [u8; 32],
    pub(super) stamp: Stamp,
    pub(super) facts: Arc<Facts>,
    pub(super) requests: Arc<AtomicU64>,
}

/// Why files on disk are not served, and which files these are.
pub(super) struct Problem {
    pub(super) stamp: Option<Stamp>,
    /// Until when these files are not read again; `None` is until they change.
    pub(super) until: Option<Instant>,
    pub(super) cause: Cause,
    pub(super) reason: String,
}

impl Problem {
    pub(super) fn new(stamp: Option<Stamp>, error: &RegistryError) -> Self {
        Self { stamp, until: None, cause: Cause::of(error), reason: error.to_string() }
    }

    /// The state of the files that are not read now.
    pub(super) fn refused(&self, now: Instant) -> Option<Stamp> {
        self.stamp.filter(|_| self.until.is_none_or(|until| now < until))
    }
}

/// A request to change or describe what is in service.
pub(super) struct Order {
    pub(super) kind: OrderKind,
    pub(super) expected: Option<Expected>,
    pub(super) reply: Reply,
    /// Its number among all orders; 0 until it is accepted.
    pub(super) number: u64,
}

/// What an [`Order`] asks for.
#[derive(Debug, Clone)]
pub(super) enum OrderKind {
    /// Serve the files in this folder, relative to the root.
    Put(PathBuf),
    /// Serve the adapter no more, although it is not in memory and may not even exist.
    Delete,
    /// Tell the status of an adapter that is not in memory, if its folder is still there.
    Describe,
}

/// Why a job reads an adapter's folder.
pub(super) enum Purpose {
    /// Callers wait for a pin.
    Load,
    /// The files may have changed.
    Look,
    /// A request asks for it.
    Order(Order),
}

/// A job for one name, with what it needs to know about the version in service.
pub(super) struct Work {
    pub(super) purpose: Purpose,
    pub(super) folder: PathBuf,
    pub(super) stamp: Option<Stamp>,
    pub(super) digest: Option<[u8; 32]>,
    /// Whether the version in service is in memory.
    pub(super) resident: bool,
    pub(super) refused: Option<Stamp>,
    pub(super) change: Option<(Stamp, Instant)>,
}

/// What a job found.
pub(super) enum JobOutcome {
    /// The files are those in service.
    Same,
    /// The files are those that were refused before.
    StillRefused,
    /// The files differ from those in service, and may still be changing.
    Changing(Stamp),
    /// The files were written again with the content that is in service.
    Rewritten(Stamp),
    /// A version was read.
    Found(Box<Found>),
    /// The folder is there, with files of this stamp, which were not read; `None` if the disk fails.
    Exists(Option<Stamp>),
    /// The disk could not be read.
    Unknown,
}

/// A job that failed.
pub(super) struct Failure {
    pub(super) error: RegistryError,
    /// The files that cannot be loaded, as far as they are known.
    pub(super) stamp: Option<Stamp>,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, stamp: None }
    }
}

impl From<RegistryError> for Box<Failure> {
    fn from(error: RegistryError) -> Self {
        Self::new(error.into())
    }
}

/// A version that was read.
pub(super) struct Found {
    pub(super) folder: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) digest: [u8; 32],
    /// `None` where the content is in service and in memory already.
    pub(super) checked: Option<Checked>,
}

/// A version that was read and needs room in memory.
pub(super) struct Claim {
    pub(super) name: Arc<str>,
    pub(super) folder: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) digest: [u8; 32],
    pub(super) facts: Facts,
    pub(super) adapter: Arc<Adapter>,
    pub(super) purpose: Purpose,
    /// Since when its adapter waits for room, including the time outside the line.
    pub(super) asked: Instant,
    /// Since when it is in the line.
    pub(super) since: Instant,
    /// Whether adapters in use get no new pins for its sake.
    pub(super) drains: bool,
}

/// An adapter that waits for a place among the claims. Its files are read again then, for the same purpose.
pub(super) struct Outside {
    pub(super) name: Arc<str>,
    pub(super) bytes: usize,
    pub(super) purpose: Purpose,
    /// Since when it waits for room.
    pub(super) asked: Instant,
    /// The earliest is the next.
    pub(super) turn: Instant,
}

impl Entry {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            current: None,
            withdrawn: false,
            deleted: 0,
            kept: false,
            waiters: Vec::new(),
            orders: VecDeque::new(),
            queued: None,
            queued_look: false,
            running: None,
            ordered: false,
            parked: false,
            recalled: None,
            failed: None,
            problem: None,
            changing: None,
            change: None,
            look: false,
            touched: false,
        }
    }

    /// The generation in service.
    pub(super) fn generation(&self) -> Option<u64> {
        self.current.as_ref().map(|version| version.key.generation)
    }

    /// Whether `expected` is what is in service.
    pub(super) fn agrees(&self, name: &str, expected: Option<Expected>) -> Result<(), RegistryError> {
        match (expected, self.generation()) {
            (None, _) | (Some(Expected::Any), Some(_)) => Ok(()),
            (Some(Expected::Generation(expected)), Some(found)) if expected == found => Ok(()),
            (Some(expected), found) => Err(RegistryError::Stale { name: name.into(), expected, found }),
        }
    }

    /// Whether its files are in another folder than `name` says. It is not in service without that folder, even if there is one of its
    /// name: only a `PUT` may exchange them.
    pub(super) fn is_elsewhere(&self, name: &str) -> bool {
        self.folder != Path::new(name)
    }

    /// Whether a newer version has not been served for long because its files still change. One that waits for room in memory has been
    /// read.
    pub(super) fn changes(&self) -> bool {
        let long = self.changing.is_some_and(|since| since.elapsed() >= LONG_CHANGE);
        self.current.is_some() && self.change.is_some() && !self.parked && long
    }

    /// Whether it is not in service because its files, which are there, cannot be loaded. Clients cannot make up such a name.
    pub(super) fn is_broken(&self) -> bool {
        self.current.is_none() && self.problem.as_ref().is_some_and(|problem| problem.stamp.is_some())
    }

    /// Notes that the files of a problem have changed since: they may be repaired.
    pub(super) fn seen(&mut self, stamp: &Stamp) {
        if self.problem.as_ref().and_then(|problem| problem.stamp).is_some_and(|before| before != *stamp) {
            (self.problem, self.failed) = (None, None);
        }
    }

    /// Whether nothing is lost without the entry of `name`.
    pub(super) fn is_idle(&self, name: &str, now: Instant) -> bool {
        self.current.is_none()
            && !self.is_broken()
            && !self.is_elsewhere(name)
            && !self.withdrawn
            && !self.kept
            && self.waiters.is_empty()
            && self.orders.is_empty()
            && self.queued.is_none()
            && !self.parked
            && self.failed.as_ref().is_none_or(|(until, _)| *until <= now)
    }
}
