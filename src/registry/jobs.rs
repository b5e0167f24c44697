//! What the loader's threads do: look at folders, and read adapters.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::RegistryError;
use super::entry::{Failure, Found, JobOutcome, Order, OrderKind, Purpose, Work};
use super::files::{Place, ReadVersion};
use super::loader::{Job, Loader, Worker};
use super::names::other_base;
use super::shared::Shared;
use super::stamp::{Stamp, is_absent};
use super::status::{Checked, Facts};
use crate::adapter::{AdapterError, OpenFiles};
use crate::engine::Error;
use crate::panics;

/// Weights files of at most this many bytes are read before anything is known about them.
const SMALL: u64 = 16 << 20;

impl Worker for Shared {
    fn loader(&self) -> &Loader {
        &self.loader
    }

    fn work(self: Arc<Self>, job: Job) {
        match job {
            Job::Adapter(name) => adapter(&self, &name),
            Job::Root => match self.root.canonicalize().and_then(|root| Ok((root.metadata()?.is_dir(), root))) {
                Ok((true, root)) => self.with(|state| state.look_at_root(Some(root))),
                // The disk fails at the moment. What is in memory serves on.
                Err(error) if !is_absent(&error) => {}
                _ => self.with(|state| state.look_at_root(None)),
            },
            Job::List => {
                let waiting = self.loader.take_listing();
                let list = self.list();
                for reply in waiting {
                    // A caller may be gone.
                    let _ = reply.send(list.clone());
                }
            }
        }
    }
}

/// Does what the state says that `name` needs.
fn adapter(shared: &Arc<Shared>, name: &Arc<str>) {
    let Some(work) = shared.with(|state| state.begin(name, Instant::now())) else { return };
    let result = catch_unwind(AssertUnwindSafe(|| perform(shared, name, &work))).unwrap_or_else(|panic| {
        let panicked = RegistryError::Panicked { name: (&**name).into(), reason: panics::message(&*panic) };
        Err(panicked.into())
    });
    let result = result.map_err(|failure| {
        let Failure { error, stamp } = *failure;
        let find = || shared.place(name, &work.folder).find().ok().map(|folder| folder.stamp);
        let stamp = if matches!(work.purpose, Purpose::Load) { stamp.or_else(find) } else { None };
        Failure { error, stamp }
    });
    shared.with(|state| state.finish(name, work.purpose, result, Instant::now()));
}

/// Reads what a job needs from the disk.
fn perform(shared: &Shared, name: &str, work: &Work) -> Result<JobOutcome, Box<Failure>> {
    let place = shared.place(name, &work.folder);
    match &work.purpose {
        Purpose::Order(Order { kind: OrderKind::Delete | OrderKind::Describe, .. }) => {
            return Ok(JobOutcome::Exists(Some(place.find()?.stamp)));
        }
        // It is read once it is asked for.
        Purpose::Look if !work.resident => {
            return match place.find() {
                Err(gone @ RegistryError::NotFound { .. }) => Err(gone.into()),
                found => Ok(JobOutcome::Exists(found.ok().map(|folder| folder.stamp))),
            };
        }
        Purpose::Look => {
            if let Some(outcome) = seen(shared, work) {
                return Ok(outcome);
            }
        }
        Purpose::Load | Purpose::Order(_) => {}
    }
    // A broken update is reported at once, and looked at again when it changes. Where a first load is cut short, the caller is told to
    // try again.
    let finished = |error, cut_short: bool| {
        if cut_short && matches!(work.purpose, Purpose::Load) { place.changing() } else { error }
    };
    let version = place.read(work.stamp.as_ref(), &|files| allow(shared, place, files));
    let version = version.map_err(|error| finished(error, place.lacks_weights_yet()))?;
    let same = work.digest == Some(version.digest);
    if same && matches!(work.purpose, Purpose::Look) {
        return Ok(JobOutcome::Rewritten(version.stamp));
    }
    let checked = if same && work.resident {
        None
    } else {
        let checked = check(shared, place, &version);
        // The files that were read are at fault, and not those that may have replaced them meanwhile.
        let stamp = Some(version.stamp);
        Some(checked.map_err(|error| Box::new(Failure { error: finished(error, version.is_cut_short_yet()), stamp }))?)
    };
    let ReadVersion { folder, stamp, digest, .. } = version;
    Ok(JobOutcome::Found(Box::new(Found { folder, stamp, digest, checked })))
}

/// Refuses a version before it is read, if its files show that it is larger than the budget, or if they are large and no adapter. Small
/// files are read, so that the error has all that is wrong with them.
fn allow(shared: &Shared, place: Place, files: &OpenFiles) -> Result<(), RegistryError> {
    let Shared { source, budget, .. } = shared;
    let bytes = match source.least_bytes(files) {
        Ok(bytes) => bytes,
        Err(error) if files.size() > SMALL => return Err(place.invalid(error.into())),
        Err(_) => 0,
    };
    if bytes > *budget {
        return Err(RegistryError::TooLarge { name: place.name.into(), bytes, budget: *budget });
    }
    Ok(())
}

/// Checks a version that has been read: makes an adapter of its files.
fn check(shared: &Shared, place: Place, version: &ReadVersion) -> Result<Checked, RegistryError> {
    let source = &shared.source;
    let adapter = source.load(&version.files).map_err(|error| match error {
        Error::Adapter(AdapterError::DeviceMemory { needed, free }) => {
            RegistryError::DeviceMemory { name: place.name.into(), needed, free }
        }
        error => {
            if matches!(error, Error::DeviceLost { .. }) {
                tracing::error!(adapter = place.name, "{error}");
                shared.on_device_lost.get().into_iter().for_each(|callback| callback());
            }
            place.invalid(error)
        }
    })?;
    let warning = other_base(&adapter.info, &source.base_names());
    if let Some(warning) = warning.clone().filter(|_| shared.strict_base) {
        return Err(RegistryError::OtherBase { name: place.name.into(), warning });
    }
    let layout = source.layout();
    let facts = Facts {
        ranks: adapter.ranks(layout),
        bytes: adapter.bytes(),
        labels: adapter.info.labels.clone(),
        problem_type: adapter.info.problem_type,
        first_active_site: adapter.first_active_site(layout).map(|site| layout.named(site)),
        warning,
    };
    Ok(Checked { adapter, facts })
}

/// A cheap look at the files; `None` if they have to be read.
fn seen(shared: &Shared, work: &Work) -> Option<JobOutcome> {
    let Ok(stamp) = Stamp::of(&shared.root.join(&work.folder)) else {
        // The disk fails at the moment. The version in memory serves on.
        return Some(JobOutcome::Unknown);
    };
    if work.stamp == Some(stamp) {
        return Some(JobOutcome::Same);
    }
    if work.refused == Some(stamp) {
        return Some(JobOutcome::StillRefused);
    }
    let quiet = stamp.quiet(work.stamp.as_ref());
    match work.change {
        Some((before, since)) if before == stamp && since.elapsed() >= quiet => None,
        _ => Some(JobOutcome::Changing(stamp)),
    }
}
