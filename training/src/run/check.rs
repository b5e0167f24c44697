//! Checks whether a run may begin or continue in its folders.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    CONFIG, Existing, FACTS, Facts, Folders, LOCK, LOG, REPLACING, config, has_adapter, names, output, read, recorded,
};
use crate::checkpoint;
use crate::error::Error;
use crate::settings::Settings;

/// Checks that a run may start or continue in these folders. Changes no files.
///
/// # Errors
/// A folder is not empty; the run to continue has other settings or facts (the error names them) or does not exist; or a file to
/// overwrite belongs to neither a run nor an adapter.
pub fn check(folders: &Folders, existing: Existing, settings: &Settings, facts: &Facts) -> Result<(), Error> {
    let Folders { output, run } = folders;
    let (in_output, in_run) = (names(output)?, names(run)?);
    match existing {
        Existing::Refuse if !in_output.is_empty() => Err(Error::OutputExists(output.clone())),
        Existing::Refuse if !in_run.is_empty() => Err(Error::OutputExists(run.clone())),
        Existing::Resume if run.join(CONFIG).exists() || checkpoint::last(run)?.is_some() => {
            output::check(folders)?;
            let (begun_with, begun_on) = recorded(run)?;
            begun_on.check_base(run, &facts.base)?;
            // The base is the same, whatever it is called now: a folder may have moved, or be named from another directory.
            let begun_with = Settings { model_id: settings.model_id.clone(), ..begun_with };
            same(&run.join(CONFIG), &config::continued_as(begun_with, settings), settings)?;
            same(&run.join(FACTS), &begun_on, facts)?;
            // Otherwise it would begin again from the first step, and lose its log.
            let lost = checkpoint::last(run)?.is_none() && (epochs(run)? > 1 || has_exported(folders));
            if lost { Err(Error::NoCheckpoint(run.clone())) } else { Ok(()) }
        }
        Existing::Resume if in_output.iter().any(|name| name != run) => Err(Error::NoRun(output.clone())),
        Existing::Overwrite => {
            let (labels, exported) = (output.join("config.json"), has_adapter(output));
            let ours = |path: &PathBuf| [CONFIG, FACTS, LOCK].iter().any(|name| *path == run.join(name));
            if labels.exists() && !exported {
                return Err(Error::Foreign(labels));
            }
            let foreign = !in_run.is_empty() && !in_run.iter().any(ours) && checkpoint::last(run)?.is_none();
            if foreign { Err(Error::Foreign(run.clone())) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// The number of complete lines in the log of the run in the folder `run`. The last epoch may have no checkpoint.
fn epochs(run: &Path) -> Result<usize, Error> {
    Ok(read(&run.join(LOG), |text| Ok(text.matches('\n').count()))?.unwrap_or(0))
}

/// Whether the adapter, or what another method leaves, is this run's own.
fn has_exported(Folders { output, run }: &Folders) -> bool {
    has_adapter(output) && !run.join(REPLACING).exists()
}

/// Checks that `now` equals `before`, which the run recorded in the file `path`. The error names the first entry that differs.
fn same<T: Serialize + DeserializeOwned + PartialEq>(path: &Path, before: &T, now: &T) -> Result<(), Error> {
    if before == now {
        return Ok(());
    }
    let entries = |of: &T| match serde_json::to_value(of) {
        Ok(serde_json::Value::Object(entries)) => entries,
        _ => serde_json::Map::new(),
    };
    let (before, now) = (entries(before), entries(now));
    // An entry may be left out on one side.
    let key = now.keys().chain(before.keys()).find(|key| before.get(*key) != now.get(*key)).map_or("", String::as_str);
    let value_of = |entries: &serde_json::Map<String, serde_json::Value>| {
        entries.get(key).cloned().unwrap_or_default().to_string()
    };
    Err(Error::OtherRun {
        path: path.to_owned(),
        entry: key.to_owned(),
        before: value_of(&before),
        now: value_of(&now),
    })
}
