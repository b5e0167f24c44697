//! The names of the files of bases and adapters, the folders of running pulls, and the removal of what interrupted pulls left behind.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::atomic_file;

/// The configuration. It is fetched first, so that an unsupported base is rejected before its weights are fetched.
pub(super) const CONFIG: &str = "config.json";
/// The other files that every base has.
pub(super) const REQUIRED: [&str; 2] = ["tokenizer.json", "model.safetensors"];
/// A file that most bases have.
pub(super) const OPTIONAL: &str = "tokenizer_config.json";

/// The files of an adapter. The configuration comes last, because a folder with it counts as an adapter.
pub(super) const ADAPTER: [&str; 2] = ["adapter_model.safetensors", "adapter_config.json"];

/// An adapter's weights as older releases of PEFT write them.
pub(super) const ADAPTER_PICKLE: &str = "adapter_model.bin";

/// The file that describes a fetched dataset. It is written last.
pub(super) const DATASET: &str = "dataset.json";

/// The file with all weights, in the format that is served.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// A file in the folder of a converted local model: the name of the model's own folder. A process that uses the model as a base shares a
/// lock on this file, so that the folder is not removed.
pub(super) const CONVERTED_FROM: &str = "converted_from.txt";
/// The index that names the shard of each tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The weights as `torch.save` writes them.
pub(super) const PICKLE: &str = "pytorch_model.bin";
/// The index that names the pickle of each tensor.
pub(super) const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";
/// The tokenizer, in the format that is served.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// The prefix of files that are being downloaded, and that a later pull can resume.
pub(super) const PARTIAL: &str = ".partial-";
/// The prefix of files that are being downloaded, and that no later pull can resume.
pub(super) const SINGLE: &str = ".single-";
/// The prefix of the folders of running and interrupted pulls.
const STAGING: &str = ".pull-";
/// The end of the name of a file beside the folder of a pull. The process that pulls holds a lock on it.
const LOCK: &str = ".lock";
/// How long an interrupted download is kept so that a later pull can resume it. Where the file system has no locks, anything older was
/// interrupted.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether `dir` holds the files of a base.
pub(super) fn is_base(dir: &Path) -> bool {
    [CONFIG].iter().chain(&REQUIRED).all(|name| dir.join(name).is_file())
}

/// Whether `dir` holds the files of an adapter.
pub(super) fn is_adapter(dir: &Path) -> bool {
    ADAPTER.iter().all(|name| dir.join(name).is_file())
}

/// Whether `dir` holds a fetched dataset.
pub(super) fn is_dataset(dir: &Path) -> bool {
    dir.join(DATASET).is_file()
}

/// The folder of a running pull, and the lock by which other processes see that the pull still runs. Both are removed when dropped.
pub(super) struct Staging {
    // Dropped first: a folder without a lock is swept.
    folder: TempDir,
    _lock: NamedTempFile,
}

impl Staging {
    /// Creates a folder in `models`, from which everything is removed that interrupted pulls left behind.
    pub(super) fn begin(models: &Path) -> io::Result<Self> {
        fs::create_dir_all(models)?;
        sweep(models);
        loop {
            let lock = Builder::new().prefix(STAGING).suffix(LOCK).tempfile_in(models)?;
            if atomic_file::hold(&lock) {
                let name = lock.path().with_extension("");
                let name = name.file_name().unwrap_or_default();
                let folder = Builder::new().prefix(name).rand_bytes(0).tempdir_in(models)?;
                return Ok(Self { folder, _lock: lock });
            }
        }
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Extensions of files that lie beside a base and are no part of it: weights of other programs, the state of a training, and texts for
/// people.
const OTHERS: [&str; 10] = ["h5", "msgpack", "onnx", "ot", "gguf", "md", "py", "pt", "pth", "pkl"];

/// Names of such files whose extension is that of weights.
const OTHER_NAMES: [&str; 3] = ["training_args.bin", "optimizer.bin", "scheduler.bin"];

/// Whether a base may be made of the file at `path`, with others. Subfolders, such as those of adapters, and links that lead nowhere are
/// no part of a base.
pub(super) fn may_be_of_base(path: &Path) -> bool {
    let [name, ending] =
        [path.file_name(), path.extension()].map(|part| part.and_then(OsStr::to_str).unwrap_or_default());
    // Weights that are there in the format that is served need no others.
    let is_spare = name == PICKLE && [WEIGHTS, INDEX].iter().any(|weights| path.with_file_name(weights).is_file());
    path.is_file() && !OTHERS.contains(&ending) && !OTHER_NAMES.contains(&name) && !is_spare
}

/// Removes what interrupted pulls, or interrupted writers of other files, left behind in a folder of the cache. Whoever still works on
/// a file or folder holds a lock. Anything that cannot be removed stays.
pub(super) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if [SINGLE, atomic_file::PREFIX].iter().any(|prefix| name.starts_with(prefix)) {
            remove_abandoned(&path, || is_old(&entry));
        } else if name.starts_with(PARTIAL) {
            if is_old(&entry) {
                remove_abandoned(&path, || true);
            }
        } else if name.starts_with(STAGING) {
            sweep_staging(&entry, folder, name.strip_suffix(LOCK).unwrap_or(&name));
        }
    }
}

/// Removes the folder of a pull that was interrupted, and its lock. The entry is one of both.
fn sweep_staging(entry: &DirEntry, models: &Path, name: &str) {
    let (folder, lock) = (models.join(name), models.join(format!("{name}{LOCK}")));
    // A folder without a lock is left where its pull was stopped while it removed both.
    let writer = atomic_file::writer_of(&lock);
    if writer.has_ended(|| !lock.exists() || is_old(entry)) {
        let _ = fs::remove_dir_all(folder);
        let _ = fs::remove_file(lock);
    }
    // Held until here: a pull that has just created its lock must not take it while the folder is removed.
    drop(writer);
}

/// Removes a file whose writer has ended. Where that is not known, `otherwise` decides.
fn remove_abandoned(path: &Path, otherwise: impl FnOnce() -> bool) {
    let writer = atomic_file::writer_of(path);
    if writer.has_ended(otherwise) {
        let _ = fs::remove_file(path);
    }
    drop(writer);
}

/// Whether it was changed long ago.
fn is_old(entry: &DirEntry) -> bool {
    let changed = entry.metadata().ok().and_then(|metadata| metadata.modified().ok());
    changed.and_then(|time| SystemTime::now().duration_since(time).ok()).is_some_and(|age| age > STALE)
}
