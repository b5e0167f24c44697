//! A run's state on disk. After epoch N it is in `run/checkpoint-N`, and after S steps of the next epoch in `run/checkpoint-N+S`. A
//! checkpoint is complete or absent, even after a power cut. Of the epochs' checkpoints, either the best and the last are kept, or all.
//! A checkpoint in the middle of an epoch is kept until the next checkpoint.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use polyrank::atomic_file;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::method::Method;
use crate::optim::{Moments, Optimizer, Variable};

/// The names of checkpoints that are being written begin with this.
const UNFINISHED: &str = ".checkpoint-";

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The number of finished epochs.
    pub epoch: usize,
    /// The best value of the primary metric on the validation split, among the epochs that may be chosen.
    pub best: Option<f64>,
    /// The validation loss of that epoch, which decides between equal values.
    #[serde(default)]
    pub best_loss: Option<f64>,
    /// The best epoch.
    pub best_epoch: usize,
    /// The steps of the epoch in progress; `None` at the end of an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<PartialEpoch>,
}

impl Progress {
    fn position(&self) -> Position {
        Position { epoch: self.epoch, steps: self.partial.map_or(0, |partial| partial.steps) }
    }
}

impl Display for Progress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Position { epoch, steps } = self.position();
        match steps {
            0 => write!(f, "after epoch {epoch}"),
            _ => write!(f, "after step {steps} of epoch {}", epoch + 1),
        }
    }
}

/// The steps of an epoch that is in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PartialEpoch {
    /// The number of steps.
    pub steps: usize,
    /// The sum of the losses over the rows of these steps.
    pub loss: f64,
    /// The number of these rows.
    pub rows: usize,
    /// The duration of these steps.
    pub seconds: f64,
}

/// When a checkpoint was made. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// The number of finished epochs.
    epoch: usize,
    /// The number of steps in the next epoch.
    steps: usize,
}

impl Position {
    /// The position in a checkpoint's name; `None` if the name is not that of a checkpoint.
    fn of(name: &str) -> Option<Self> {
        let position = name.strip_prefix("checkpoint-")?;
        let (epoch, steps) = position.split_once('+').unwrap_or((position, "0"));
        Some(Self { epoch: epoch.parse().ok()?, steps: steps.parse().ok()? })
    }

    fn folder(self, run: &Path) -> PathBuf {
        let Self { epoch, steps } = self;
        if steps == 0 { folder(run, epoch) } else { run.join(format!("checkpoint-{epoch}+{steps}")) }
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    progress: Progress,
    step: usize,
    /// The number of steps in each variable's moments, in the variables' order.
    moments: Vec<usize>,
}

/// The folder of the checkpoint after `epoch`.
#[must_use]
pub fn folder(run: &Path, epoch: usize) -> PathBuf {
    run.join(format!("checkpoint-{epoch}"))
}

/// Writes the checkpoint of `progress` to a temporary folder, and renames it.
///
/// # Errors
/// A file cannot be written. No partial checkpoint is left.
pub fn save(run: &Path, method: &dyn Method, optimizer: &Optimizer, progress: &Progress) -> Result<(), Error> {
    let room = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(run).map_err(Error::io(run))?;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut insert = |name: String, tensor: &Tensor| -> Result<(), Error> {
        tensors.insert(name, tensor.to_device(&Device::Cpu)?);
        Ok(())
    };
    let mut steps = Vec::with_capacity(optimizer.variables.len());
    for (i, Variable { name, var, .. }) in optimizer.variables.iter().enumerate() {
        let moments = optimizer.moments(i)?;
        steps.push(moments.steps);
        insert(format!("var.{name}"), var)?;
        insert(format!("first.{name}"), &moments.first.flatten_all()?)?;
        insert(format!("second.{name}"), &moments.second.flatten_all()?)?;
    }
    for (name, tensor) in method.state()? {
        insert(name, &tensor)?;
    }
    let weights = room.path().join("state.safetensors");
    let bytes = safetensors::serialize(&tensors, None).map_err(|error| Error::malformed(&weights, error))?;
    atomic_file::write(&weights, &bytes).map_err(Error::io(&weights))?;
    let path = room.path().join("state.json");
    let state = State { progress: progress.clone(), step: optimizer.done, moments: steps };
    let json = serde_json::to_vec_pretty(&state).map_err(|error| Error::malformed(&path, error))?;
    atomic_file::write(&path, &json).map_err(Error::io(&path))?;
    let target = progress.position().folder(run);
    if target.exists() {
        fs::remove_dir_all(&target).map_err(Error::io(&target))?;
    }
    fs::rename(room.path(), &target).map_err(Error::io(&target))?;
    // The checkpoint is on the disk before the ones that it replaces are removed.
    atomic_file::sync_folder(run).map_err(Error::io(run))
}

/// Removes the checkpoints that are no longer needed once that of `progress` is saved: those in the middle of an epoch, and unless
/// `keep_epochs`, those of all epochs but the best and the last.
///
/// # Errors
/// A folder cannot be read or removed.
pub fn forget(run: &Path, progress: &Progress, keep_epochs: bool) -> Result<(), Error> {
    for (position, path) in all(run)? {
        let needed = match position {
            Position { epoch, steps: 0 } => keep_epochs || epoch == progress.epoch || epoch == progress.best_epoch,
            _ => position == progress.position(),
        };
        if !needed {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Removes the temporary files of a process that was killed while it saved a checkpoint.
///
/// # Errors
/// A folder cannot be read or removed.
pub fn remove_unfinished(run: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(run).map_err(Error::io(run))? {
        let entry = entry.map_err(Error::io(run))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
            fs::remove_dir_all(entry.path()).map_err(Error::io(&entry.path()))?;
        }
    }
    Ok(())
}

/// Whether a file with this name in a run's folder is a checkpoint, or the beginning of one.
#[must_use]
pub fn is_checkpoint(name: &str) -> bool {
    name.starts_with(UNFINISHED) || Position::of(name).is_some()
}

/// All checkpoints of a run, from the first to the last.
fn all(run: &Path) -> Result<Vec<(Position, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io(run))? {
        let entry = entry.map_err(Error::io(run))?;
        let position = entry.file_name().to_str().and_then(Position::of);
        found.extend(position.map(|position| (position, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The last checkpoint, if there is one.
///
/// # Errors
/// The folder cannot be read.
pub fn last(run: &Path) -> Result<Option<PathBuf>, Error> {
    if !run.is_dir() {
        return Ok(None);
    }
    Ok(all(run)?.pop().map(|(_, path)| path))
}

/// The number of epochs that the run in the folder `run` has finished.
///
/// # Errors
/// The folder cannot be read.
pub fn finished_epochs(run: &Path) -> Result<usize, Error> {
    if !run.is_dir() {
        return Ok(0);
    }
    Ok(all(run)?.pop().map_or(0, |(position, _)| position.epoch))
}

/// Restores `method` and `optimizer`, which has the method's variables, from a checkpoint.
///
/// # Errors
/// A file is missing or malformed, or a tensor is missing or does not have the shape that follows from the settings.
pub fn load(checkpoint: &Path, method: &mut dyn Method, optimizer: &mut Optimizer) -> Result<Progress, Error> {
    let stored = Stored::read(checkpoint)?;
    stored.restore(method)?;
    let moments = optimizer.variables.iter().zip(&stored.state.moments).map(|(Variable { name, var, .. }, &steps)| {
        if steps == 0 {
            return Ok(Moments::zeros(var)?);
        }
        let moment = |kind| -> Result<Tensor, Error> {
            let vector = stored.get(kind, name, &[var.elem_count()])?;
            Ok(vector.reshape(var.shape())?.to_device(var.device())?)
        };
        Ok(Moments { first: moment("first")?, second: moment("second")?, steps })
    });
    optimizer.set_moments(moments.collect::<Result<_, Error>>()?)?;
    optimizer.done = stored.state.step;
    Ok(stored.state.progress)
}

/// Restores only `method` from a checkpoint, for an export.
///
/// # Errors
/// As [`load`].
pub fn load_method(checkpoint: &Path, method: &mut dyn Method) -> Result<Progress, Error> {
    let stored = Stored::read(checkpoint)?;
    stored.restore(method)?;
    Ok(stored.state.progress)
}

/// The content of a checkpoint's files.
struct Stored {
    /// The file of the tensors.
    path: PathBuf,
    state: State,
    tensors: HashMap<String, Tensor>,
}

impl Stored {
    fn read(checkpoint: &Path) -> Result<Self, Error> {
        let path = checkpoint.join("state.json");
        let json = fs::read(&path).map_err(Error::io(&path))?;
        let state: State = serde_json::from_slice(&json).map_err(|error| Error::malformed(&path, error))?;
        let path = checkpoint.join("state.safetensors");
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
        let tensors = tensors.map_err(|error| Error::malformed(&path, error))?;
        Ok(Self { path, state, tensors })
    }

    /// Returns the tensor `kind.name`, which must have the shape `expected`.
    fn get(&self, kind: &str, name: &str, expected: &[usize]) -> Result<&Tensor, Error> {
        let full = format!("{kind}.{name}");
        match self.tensors.get(&full) {
            None => Err(Error::malformed(&self.path, format!("tensor {full} is missing"))),
            Some(found) if found.dims() != expected => {
                let found = found.dims();
                let reason = format!("tensor {full}: expected shape {expected:?}, found {found:?}");
                Err(Error::malformed(&self.path, reason))
            }
            Some(tensor) => Ok(tensor),
        }
    }

    /// Restores the method's variables and its state.
    fn restore(&self, method: &mut dyn Method) -> Result<(), Error> {
        let variables = method.variables();
        if self.state.moments.len() != variables.len() {
            let (expected, found) = (variables.len(), self.state.moments.len());
            let reason = format!("expected the moments of {expected} variables, found {found}");
            return Err(Error::malformed(&self.path, reason));
        }
        for Variable { name, var, .. } in variables {
            var.set(&self.get("var", &name, var.dims())?.to_device(var.device())?)?;
        }
        method.restore(&self.tensors).map_err(|error| Error::malformed(&self.path, error))
    }
}
