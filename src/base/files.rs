//! The files of bases and adapters, and the leftovers of pulls among them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::atomic_file;

/// The configuration comes first: a base that is not served is refused before its weights come.
pub(super) const CONFIG: &str = "config.json";
/// What every base has besides.
pub(super) const REQUIRED: [&str; 2] = ["tokenizer.json", "model.safetensors"];
/// What most bases have.
pub(super) const OPTIONAL: &str = "tokenizer_config.json";

/// What an adapter has, the configuration by which a folder is one last.
pub(super) const ADAPTER: [&str; 2] = ["adapter_model.safetensors", "adapter_config.json"];

/// One file of all weights, as it is served.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// Which shard holds which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What `torch.save` wrote.
pub(super) const PICKLE: &str = "pytorch_model.bin";
/// Which pickle holds which tensor.
pub(super) const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";
/// The tokenizer, as it is served.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Files on their way begin so.
pub(super) const PARTIAL: &str = ".partial-";
/// Folders of pulls that run, or that were interrupted, begin so.
pub(super) const STAGING: &str = ".pull-";
/// A pull does not take so long: what is older was interrupted.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether `dir` holds the files of a base.
pub(super) fn is_base(dir: &Path) -> bool {
    [CONFIG].iter().chain(&REQUIRED).all(|name| dir.join(name).is_file())
}

/// Whether `dir` holds the files of an adapter.
pub(super) fn is_adapter(dir: &Path) -> bool {
    ADAPTER.iter().all(|name| dir.join(name).is_file())
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
