//! A run's folder (`DIR/run` by default): the settings (`config.toml`), facts about the data and the base (`task.json`), the log, and
//! the checkpoints.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::fs::{self, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use polyrank::adapter::{AdapterError, ProblemType};
use polyrank::atomic_file;
use polyrank::text::rows::ColumnNames;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::checkpoint;
use crate::data::{Example, HoldOut, Target, TaskData};
use crate::error::Error;
use crate::settings::Settings;

const CONFIG: &str = "config.toml";
const FACTS: &str = "task.json";
const LOG: &str = "log.jsonl";
/// The process that trains holds a lock on this file.
const LOCK: &str = "lock";
/// While this file exists, the adapter beside the run is that of an earlier run, which this run will replace.
const REPLACING: &str = "replacing";

/// What determines a run besides its settings. A run cannot be continued with other facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Name of the task, which decides its metric.
    pub task: String,
    /// Classification or regression.
    pub problem: ProblemType,
    /// Label names in order of id.
    pub labels: Vec<String>,
    /// Fingerprint of the base.
    pub base: String,
    /// The training examples.
    pub train: Part,
    /// The examples by which the best epoch is selected.
    pub validation: Part,
    /// The share of the training file that was held out for validation.
    pub held_out: Option<HoldOut>,
    /// The columns that were read, if they are not the usual ones.
    #[serde(default)]
    pub columns: ColumnNames,
}

/// A set of examples, identified by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The number of examples.
    pub examples: usize,
    /// The SHA-256 of their texts and labels, in order.
    pub sha256: String,
}

impl Facts {
    /// The facts of a run on `data` and on the base with the fingerprint `base`.
    #[must_use]
    pub fn new(data: &TaskData, base: &str) -> Self {
        Self {
            task: data.task.clone(),
            problem: data.problem,
            labels: data.labels.clone(),
            base: base.to_owned(),
            train: Part::new(&data.train),
            validation: Part::new(data.validation.first().map_or(&[], |split| &split.examples)),
            held_out: data.held_out,
            columns: data.columns.clone(),
        }
    }

    /// Reads the facts of the run in the folder `run`; `None` if there are none.
    ///
    /// # Errors
    /// The file cannot be read or is malformed.
    pub fn read(run: &Path) -> Result<Option<Self>, Error> {
        read(&run.join(FACTS), |text| serde_json::from_str(text).map_err(|error| error.to_string()))
    }

    /// The facts of the run in the folder `run`, if this run made the adapter; `None` if it is not known which run did.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of_adapter(run: &Path) -> Result<Option<Self>, Error> {
        if run.join(REPLACING).exists() { Ok(None) } else { Self::read(run) }
    }

    /// Whether the rows held out of `data` are those of this run.
    #[must_use]
    pub fn held_out_of(&self, data: &TaskData) -> bool {
        self.validation == Part::new(data.validation.first().map_or(&[], |split| &split.examples))
    }

    /// Checks that the rows held out of `data` are those of this run, which is in the folder `run`.
    ///
    /// # Errors
    /// The rows differ.
    pub fn check_held_out(&self, run: &Path, data: &TaskData) -> Result<(), Error> {
        if self.held_out_of(data) { Ok(()) } else { Err(Error::HeldOut(run.join(FACTS))) }
    }

    /// Checks that this run, which is in the folder `run`, was on the base with the fingerprint `found`.
    ///
    /// # Errors
    /// It was on another base.
    pub fn check_base(&self, run: &Path, found: &str) -> Result<(), Error> {
        if self.base == found {
            return Ok(());
        }
        let (expected, found) = (self.base.clone(), found.to_owned());
        Err(AdapterError::WrongBase { file: run.join(FACTS), expected, found, names: None }.into())
    }
}

impl Part {
    fn new(examples: &[Example]) -> Self {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for Example { text, pair, target } in examples {
            add(text.as_bytes());
            add(&[u8::from(pair.is_some())]);
            add(pair.as_deref().unwrap_or_default().as_bytes());
            match target {
                Target::Class(class) => add(&(*class as u64).to_le_bytes()),
                Target::Value(value) => add(&value.to_le_bytes()),
            }
        }
        Self { examples: examples.len(), sha256: format!("{:x}", hash.finalize()) }
    }
}

/// What to do with an output folder that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    Refuse,
    /// Continue its run.
    Resume,
    /// Replace its content.
    Overwrite,
}

/// The folders of a run's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// The folder of the adapter.
    pub output: PathBuf,
    /// The folder of the log and the checkpoints.
    pub run: PathBuf,
}

impl Folders {
    /// The folders for an adapter in `output` and a run in `run`, or in `output/run` by default.
    #[must_use]
    pub fn new(output: &Path, run: Option<&Path>) -> Self {
        Self { output: output.to_owned(), run: run.map_or_else(|| output.join("run"), Path::to_owned) }
    }
}

/// Checks that a run may start or continue in these folders. Changes no files.
///
/// # Errors
/// A folder is not empty; the run to continue has other settings or facts (the error names them) or does not exist; or a file to
/// overwrite belongs to neither a run nor an adapter.
pub fn check(folders: &Folders, existing: Existing, settings: &Settings, facts: &Facts) -> Result<(), Error> {
    let Folders { output, run } = folders;
    let (held, run_holds) = (names(output)?, names(run)?);
    match existing {
        Existing::Refuse if !held.is_empty() => Err(Error::OutputExists(output.clone())),
        Existing::Refuse if !run_holds.is_empty() => Err(Error::OutputExists(run.clone())),
        Existing::Resume if run.join(CONFIG).exists() || checkpoint::last(run)?.is_some() => {
            let (begun, of) = begun(run)?;
            of.check_base(run, &facts.base)?;
            same(&run.join(CONFIG), &begun, settings)?;
            same(&run.join(FACTS), &of, facts)
        }
        Existing::Resume if held.iter().any(|name| name != run) => Err(Error::NoRun(output.clone())),
        Existing::Overwrite => {
            let (labels, adapter) = (output.join("config.json"), output.join("adapter_config.json"));
            let ours = |path: &PathBuf| [CONFIG, FACTS, LOCK].iter().any(|name| *path == run.join(name));
            if labels.exists() && !adapter.exists() {
                return Err(Error::Foreign(labels));
            }
            let foreign = !run_holds.is_empty() && !run_holds.iter().any(ours) && checkpoint::last(run)?.is_none();
            if foreign { Err(Error::Foreign(run.clone())) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// The files in the folder `dir`; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(Error::io(dir))?.path())).collect(),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::io(dir)(source)),
    }
}

/// A run's folder, locked for this process.
#[must_use]
pub struct LockedRun {
    run: PathBuf,
    /// Dropping the file releases its lock.
    _lock: fs::File,
}

impl LockedRun {
    /// The run's folder.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Records that the adapter beside the run is now this run's own.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn exported(&self) -> Result<(), Error> {
        let path = self.run.join(REPLACING);
        absent_or(fs::remove_file(&path)).map_err(Error::io(&path))
    }
}

/// Whether a run writes files or folders with this name.
fn is_of_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [CONFIG, FACTS, LOG, REPLACING].contains(&&*name) || checkpoint::is_checkpoint(&name)
}

/// Creates the run's folder, or removes another run's files from it. Call [`check`] first. An adapter that is to be replaced stays, and
/// can be served, until the new one is written.
///
/// # Errors
/// Another process trains there, or a file cannot be written or removed.
pub fn begin(folders: &Folders, existing: Existing, settings: &Settings, facts: &Facts) -> Result<LockedRun, Error> {
    let Folders { output, run } = folders;
    fs::create_dir_all(run).map_err(Error::io(run))?;
    let held = hold(run)?;
    if existing == Existing::Overwrite {
        for path in names(run)?.into_iter().filter(|path| is_of_run(path)) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io(&path))?;
        }
        if output.join("adapter_config.json").exists() {
            let path = run.join(REPLACING);
            atomic_file::write(&path, &[]).map_err(Error::io(&path))?;
        }
    }
    checkpoint::sweep(run)?;
    // A continued run keeps its files. The configuration, which marks the folder as a run, is written last.
    if !run.join(CONFIG).exists() {
        describe(run, settings, facts)?;
    }
    Ok(held)
}

fn hold(run: &Path) -> Result<LockedRun, Error> {
    let path = run.join(LOCK);
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(LockedRun { run: run.to_owned(), _lock: lock }),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(run.to_owned())),
        Err(TryLockError::Error(source)) => Err(Error::io(&path)(source)),
    }
}

/// Writes the run's settings and facts.
fn describe(run: &Path, settings: &Settings, facts: &Facts) -> Result<(), Error> {
    let path = run.join(FACTS);
    let json = serde_json::to_vec_pretty(facts).map_err(|error| Error::malformed(&path, error))?;
    atomic_file::write(&path, &json).map_err(Error::io(&path))?;
    let path = run.join(CONFIG);
    let toml = toml::to_string(settings).map_err(|error| Error::malformed(&path, error))?;
    atomic_file::write(&path, toml.as_bytes()).map_err(Error::io(&path))
}

/// Reads the settings and facts of the run in the folder `run`.
///
/// # Errors
/// A file is missing or malformed.
pub fn begun(run: &Path) -> Result<(Settings, Facts), Error> {
    let missing = |name| Error::io(&run.join(name))(ErrorKind::NotFound.into());
    let settings = read(&run.join(CONFIG), |text| toml::from_str(text).map_err(|error| error.to_string()))?;
    Ok((settings.ok_or_else(|| missing(CONFIG))?, Facts::read(run)?.ok_or_else(|| missing(FACTS))?))
}

/// The values of metrics by name. The best epoch is selected by the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(pub Vec<(&'static str, f64)>);

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A finished epoch, which is a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epoch {
    /// The number of the epoch, from 1.
    pub epoch: usize,
    /// The number of steps of the run so far.
    pub step: usize,
    /// The mean training loss over the epoch's examples.
    pub loss: f64,
    /// The metrics on the split by which the best epoch is selected.
    pub metrics: Scores,
    /// The mean loss on that split.
    pub validation_loss: f64,
    /// The metrics on other splits, by name (MNLI's `validation_mismatched`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Scores>,
    /// The mean rank over adapted sites.
    pub mean_rank: f64,
    /// The number of parameters of the deltas, without pruned ones.
    pub parameters: usize,
    /// The share of the deltas' parameters that is left.
    pub kept: f64,
    /// The duration of the steps.
    pub seconds: f64,
    /// The speed of training.
    pub tokens_per_second: f64,
}

impl Display for Epoch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {}: loss {:.4}", self.epoch, self.loss)?;
        if let Some((name, value)) = self.metrics.0.first() {
            write!(f, ", {name} {value:.4} (loss {:.4})", self.validation_loss)?;
        }
        for (split, scores) in &self.also {
            if let Some((name, value)) = scores.0.first() {
                write!(f, ", {split} {name} {value:.4}")?;
            }
        }
        let (kept, speed) = (100.0 * self.kept, self.tokens_per_second);
        write!(f, ", mean rank {:.2}, {kept:.1} % kept, {speed:.0} tokens/s", self.mean_rank)
    }
}

/// Adds a line to the run's log.
///
/// # Errors
/// The file cannot be written.
pub fn log(run: &Path, epoch: &Epoch) -> Result<(), Error> {
    let path = run.join(LOG);
    let entry = serde_json::to_string(epoch).map_err(|error| Error::malformed(&path, error))?;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
    file.write_all(format!("{entry}\n").as_bytes()).map_err(Error::io(&path))
}

/// Removes the lines of epochs after `epoch`, and incomplete lines, from the log.
///
/// # Errors
/// The file cannot be read or written.
pub fn trim_log(run: &Path, epoch: usize) -> Result<(), Error> {
    let path = run.join(LOG);
    let Some(text) = read(&path, |text| Ok(text.to_owned()))? else { return Ok(()) };
    let done = |line: &&str| {
        let entry = serde_json::from_str::<serde_json::Value>(line).ok();
        entry.and_then(|entry| entry["epoch"].as_u64()).is_some_and(|of| of as usize <= epoch)
    };
    let kept: String = text.lines().filter(done).map(|line| format!("{line}\n")).collect();
    if kept == text { Ok(()) } else { atomic_file::write(&path, kept.as_bytes()).map_err(Error::io(&path)) }
}

/// Reads and parses a file; `None` if it does not exist.
fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).map(Some).map_err(|reason| Error::malformed(path, reason)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io(path)(source)),
    }
}

fn absent_or(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
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
    let key = now.iter().find(|(key, value)| before.get(*key) != Some(value)).map_or("", |(key, _)| key);
    let told = |entries: &serde_json::Map<String, serde_json::Value>| {
        entries.get(key).cloned().unwrap_or_default().to_string()
    };
    Err(Error::OtherRun { path: path.to_owned(), entry: key.to_owned(), before: told(&before), now: told(&now) })
}
