//! Finds the files that decide what a task's labels mean.

use std::path::{Path, PathBuf};

use super::classes::{self, Listed};
use super::files::{self, TRAIN};
use super::spelling::whole;
use super::{DataError, DataOptions};

/// The files that decide what a task's labels mean.
pub(super) struct Found {
    /// The files of one split.
    pub(super) files: Vec<PathBuf>,
    /// Whether it is the training split.
    pub(super) trained: bool,
    /// The names of the labels that `labels.txt`, the files or an adapter state.
    pub(super) listed: Option<Listed>,
}

impl Found {
    pub(super) fn of(source: &Path, options: &DataOptions) -> Result<Self, DataError> {
        let one = source.is_file();
        let beside = if one { source.with_file_name("labels.txt") } else { source.join("labels.txt") };
        let listed = classes::listed(&beside)?;
        let known = || options.labels.clone().map(|names| Listed { names, from: "the adapter's labels", ids: false });
        let train = if one { vec![source.to_owned()] } else { files::of_split(source, TRAIN)? };
        let (files, trained) = match &options.labels {
            Some(_) if one && options.hold_out.is_none() => (train, false),
            _ if !train.is_empty() => (train, true),
            Some(_) => (files::any(source)?, false),
            None => return Err(DataError::NoTrain(source.to_owned())),
        };
        let listed = match listed {
            None => classes::stated(&files[0], &options.columns)?,
            listed => listed,
        };
        // A training file decides what its labels mean, without an adapter. If the adapter's names are whole numbers, those in the file
        // may be these names, though, as `labels.txt` said when it was trained.
        let numbers = |names: &[String]| names.iter().all(|name| whole(name).is_some());
        let asked = options.labels.as_deref().is_some_and(|names| !trained || numbers(names));
        let listed = listed.or_else(|| if asked { known() } else { None });
        Ok(Self { files, trained, listed })
    }
}
