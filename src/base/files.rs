//! The names of the files of bases and adapters, and the removal of what interrupted pulls left behind.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::atomic_file;

/// The configuration. It is fetched first, so that an unsupported base is rejected before its weights are fetched.
pub(super) const CONFIG: &str = "config.json";
/// The other files that every base has.
pub(super) const REQUIRED: [&str; 2] = ["tokenizer.json", "model.safetensors"];
/// A file that most bases have.
pub(super) const OPTIONAL: &str = "tokenizer_config.json";

/// The files of an adapter. The configuration comes last, because a folder with it counts as an adapter.
pub(super) const ADAPTER: [&str; 2] = ["adapter_model.safetensors", "adapter_config.json"];

/// The file with all weights, in the format that is served.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// The index that names the shard of each tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The weights as `torch.save` writes them.
pub(super) const PICKLE: &str = "pytorch_model.bin";
/// The index that names the pickle of each tensor.
pub(super) const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";
/// The tokenizer, in the format that is served.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// The prefix of files that are being downloaded.
pub(super) const PARTIAL: &str = ".partial-";
/// The prefix of the folders of running and interrupted pulls.
pub(super) const STAGING: &str = ".pull-";
/// No pull takes this long, so anything older was interrupted.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether `dir` holds the files of a base.
pub(super) fn is_base(dir: &Path) -> bool {
    [CONFIG].iter().chain(&REQUIRED).all(|name| dir.join(name).is_file())
}

/// Whether `dir` holds the files of an adapter.
pub(super) fn is_adapter(dir: &Path) -> bool {
    ADAPTER.iter().all(|name| dir.join(name).is_file())
}

/// Removes what interrupted pulls, or interrupted writers of other files, left behind in a folder of the cache. Anything that
/// cannot be removed stays.
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
