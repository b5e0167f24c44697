//! The settings of a run on disk, and which of them may change when the run is continued.

use std::cmp::Ordering;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use polyrank::atomic_file;

use super::{CONFIG, Facts, read};
use crate::checkpoint;
use crate::error::Error;
use crate::settings::{DataSettings, MethodName, RunSettings, Settings};

/// Everything that `train` can be given by a file, with every default in its place. As the file of `--config`, `config.toml` repeats
/// the run.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    /// What determines the run, apart from its data and base.
    pub settings: &'a Settings,
    /// How the data was read.
    pub data: &'a DataSettings,
    /// How the run is carried out.
    pub run: &'a RunSettings,
}

impl Config<'_> {
    /// Writes the configuration to the folder `run`, if it differs from the one there.
    pub(super) fn write(&self, run: &Path) -> Result<(), Error> {
        let path = run.join(CONFIG);
        let parts = [toml::to_string(self.settings), toml::to_string(self.data), toml::to_string(self.run)];
        // No setting is a table, so that the parts can be joined.
        let text = parts.into_iter().collect::<Result<String, _>>().map_err(|error| Error::malformed(&path, error))?;
        if fs::read(&path).is_ok_and(|before| before == text.as_bytes()) {
            return Ok(());
        }
        atomic_file::write(&path, text.as_bytes()).map_err(Error::io(&path))
    }
}

/// Reads the settings and facts of the run in the folder `run`.
///
/// # Errors
/// A file is missing or malformed.
pub fn recorded(run: &Path) -> Result<(Settings, Facts), Error> {
    let missing = |name| Error::io(&run.join(name))(ErrorKind::NotFound.into());
    let settings = settings(run)?.ok_or_else(|| missing(CONFIG))?;
    Ok((settings, Facts::read(run)?.ok_or_else(|| missing(super::FACTS))?))
}

/// Reads the settings of the run in the folder `run`; `None` if there are none.
///
/// # Errors
/// The file cannot be read or is malformed.
pub(crate) fn settings(run: &Path) -> Result<Option<Settings>, Error> {
    let settings = read(&run.join(CONFIG), |text| toml::from_str(text).map_err(|error| error.to_string()))?;
    Ok(settings.map(|mut settings: Settings| {
        // A run from before this setting had dropout from its first step.
        settings.dropout_after.get_or_insert(0);
        // Earlier versions recorded gates of methods that have none.
        if settings.method != MethodName::Sora {
            (settings.gate, settings.sparse_lambda) = (None, None);
        }
        // And ranks that variables or a file gave to methods that have none.
        settings.without_unused_ranks()
    }))
}

/// The settings `extended_from` and `epochs` with which a call for `epochs` epochs continues the run in the folder `run`. With more
/// epochs than the run has, the run becomes longer, and the list gets the number of epochs that it had. A call that names no number
/// keeps the run's.
///
/// # Errors
/// The run has more epochs; or its settings are malformed.
pub fn extended_from(run: &Path, epochs: Option<usize>) -> Result<(Vec<usize>, Option<usize>), Error> {
    let Some(before) = settings(run)? else { return Ok((Vec::new(), epochs)) };
    let mut plans = before.extended_from;
    let (Some(planned), Some(now)) = (before.epochs, epochs) else { return Ok((plans, epochs.or(before.epochs))) };
    match now.cmp(&planned) {
        Ordering::Less => {
            let done = checkpoint::finished_epochs(run)?;
            return Err(Error::FewerEpochs { path: run.join(CONFIG), planned, done, now });
        }
        Ordering::Equal => {}
        Ordering::Greater => plans.push(planned),
    }
    Ok((plans, epochs))
}

/// Whether `now` makes the run in the folder `run` longer.
pub(super) fn is_longer(run: &Path, now: &Settings) -> Result<bool, Error> {
    Ok(settings(run)?.is_some_and(|before| before.epochs < now.epochs))
}

/// The settings of the run that was begun with `before`, continued with `now`: those of a longer run if `now` makes it longer.
pub(super) fn continued_as(before: Settings, now: &Settings) -> Settings {
    let longer = before.extended_from.iter().copied().chain(before.epochs);
    if now.epochs > before.epochs && longer.eq(now.extended_from.iter().copied()) {
        return Settings { epochs: now.epochs, extended_from: now.extended_from.clone(), ..before };
    }
    before
}
