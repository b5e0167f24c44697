//! A stamp: what the system says about an adapter's three files. It changes with the files, and costs three system calls.
//!
//! Equal stamps are taken to mean equal files. Different stamps only mean that the files have to be read: whether they hold another
//! version is decided by their digest.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::adapter::{NAMES, OpenFiles};

/// A folder counts as complete once its three files have not changed for this long.
const QUIET: Duration = Duration::from_millis(80);

/// The same for a folder in which some files are still absent, or still those of the version in service. They may be copied next.
const QUIET_PARTIAL: Duration = Duration::from_millis(400);

/// The state of the files in the order of [`NAMES`]; `None` for a file that is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([Option<FileStamp>; NAMES.len()]);

/// The state of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    modified: Option<SystemTime>,
    /// The device, the inode, and the seconds and nanoseconds of the last change of content, name or mode. The system sets the last
    /// two, so that no program can keep them as they were.
    #[cfg(unix)]
    identity: (u64, u64, i64, i64),
}

impl FileStamp {
    fn new(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            identity: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The time of the last change.
    fn changed(&self) -> Option<SystemTime> {
        #[cfg(unix)]
        {
            let (.., seconds, nanoseconds) = self.identity;
            let since = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        }
        #[cfg(not(unix))]
        {
            self.modified
        }
    }
}

impl Stamp {
    /// The stamp of the files in `dir`, following links. Absent files and folders give an empty stamp.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let mut stamp = [None; NAMES.len()];
        for (file, name) in stamp.iter_mut().zip(NAMES) {
            *file = match std::fs::metadata(dir.join(name)) {
                Ok(metadata) => metadata.is_file().then(|| FileStamp::new(&metadata)),
                Err(error) if is_absent(&error) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(Self(stamp))
    }

    /// The stamp of files that are open.
    pub(super) fn of_open(files: &OpenFiles) -> Self {
        Self(files.metadata().map(|metadata| metadata.map(FileStamp::new)))
    }

    /// Whether there is a configuration, so that the folder is an adapter.
    pub(super) fn is_adapter(&self) -> bool {
        self.0[0].is_some()
    }

    /// Whether there is a file of weights.
    pub(super) fn has_weights(&self) -> bool {
        self.0[1].is_some()
    }

    /// For how long these files must not have changed before they are read, if `before` is the version in service.
    pub(super) fn quiet(&self, before: Option<&Self>) -> Duration {
        let pending = |(i, file): (usize, &Option<FileStamp>)| match before {
            Some(before) => before.0[i].is_some() && (file.is_none() || *file == before.0[i]),
            None => file.is_none(),
        };
        if self.0.iter().enumerate().any(pending) { QUIET_PARTIAL } else { QUIET }
    }

    /// The time since the last change, by the system's clock. `None` if the clock cannot say, as where the files lie on another
    /// machine whose clock is ahead.
    pub(super) fn age(&self) -> Option<Duration> {
        let newest = self.0.iter().flatten().map(FileStamp::changed).max()??;
        SystemTime::now().duration_since(newest).ok()
    }
}

/// Whether nothing exists at the path, as opposed to something that cannot be read at the moment.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}
