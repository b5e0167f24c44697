//! A run's state on disk: `run/checkpoint-N` after epoch N, whole or not at all, after a power cut too. The best and the last are
//! kept, or all.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use polyrank::atomic_file;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::method::Method;
use crate::optim::{Moments, Optimizer, Variable};

/// Folders of checkpoints on their way begin so.
const UNFINISHED: &str = ".checkpoint-";

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// The best value of the primary metric on validation, among epochs that may be chosen.
    pub best: Option<f64>,
    /// The loss on validation at that epoch, which decides between equal values.
    #[serde(default)]
    pub best_loss: Option<f64>,
    /// Its epoch.
    pub best_epoch: usize,
}

#[derive(Serialize, Deserialize)]
struct State {
    progress: Progress,
    step: usize,
    /// Steps that each variable's moments hold, in order.
    moments: Vec<usize>,
}

/// The folder of the checkpoint after `epoch`.
#[must_use]
pub fn folder(run: &Path, epoch: usize) -> PathBuf {
    run.join(format!("checkpoint-{epoch}"))
}

/// Writes the checkpoint of `progress.epoch` beside the others, then lets it appear by a rename.
///
/// # Errors
/// A file that cannot be written; nothing half-written stays.
pub fn save(run: &Path, method: &dyn Method, optimizer: &Optimizer, progress: &Progress) -> Result<(), Error> {
    let room = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(run).map_err(Error::io(run))?;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut insert = |name: String, tensor: &Tensor| -> Result<(), Error> {
        tensors.insert(name, tensor.to_device(&Device::Cpu)?);
        Ok(())
    };
    for (Variable { name, var, .. }, moments) in optimizer.variables.iter().zip(&optimizer.moments) {
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
    let moments = optimizer.moments.iter().map(|moments| moments.steps).collect();
    let state = State { progress: progress.clone(), step: optimizer.done, moments };
    let json = serde_json::to_vec_pretty(&state).map_err(|error| Error::malformed(&path, error))?;
    atomic_file::write(&path, &json).map_err(Error::io(&path))?;
    let target = folder(run, progress.epoch);
    if target.exists() {
        fs::remove_dir_all(&target).map_err(Error::io(&target))?;
    }
    fs::rename(room.path(), &target).map_err(Error::io(&target))?;
    // Before those that it replaces go.
    atomic_file::sync_folder(run).map_err(Error::io(run))
}

/// Removes the checkpoints that are neither of the best epoch nor of the last.
///
/// # Errors
/// A folder that cannot be read or removed.
pub fn forget(run: &Path, progress: &Progress) -> Result<(), Error> {
    for (epoch, path) in all(run)? {
        if epoch != progress.epoch && epoch != progress.best_epoch {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Removes what a process that was killed while it saved left behind.
///
/// # Errors
/// A folder that cannot be read or removed.
pub fn sweep(run: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(run).map_err(Error::io(run))? {
        let entry = entry.map_err(Error::io(run))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
            fs::remove_dir_all(entry.path()).map_err(Error::io(&entry.path()))?;
        }
    }
    Ok(())
}

/// Whether a file of that name in a run's folder is a checkpoint, or was to become one.
#[must_use]
pub fn is_checkpoint(name: &str) -> bool {
    name.starts_with(UNFINISHED) || epoch_of(name).is_some()
}

fn epoch_of(name: &str) -> Option<usize> {
    name.strip_prefix("checkpoint-")?.parse().ok()
}

/// Checkpoints of a run by epoch.
fn all(run: &Path) -> Result<Vec<(usize, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io(run))? {
        let entry = entry.map_err(Error::io(run))?;
        let epoch = entry.file_name().to_str().and_then(epoch_of);
        found.extend(epoch.map(|epoch| (epoch, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The checkpoint of the most epochs, if there is one.
///
/// # Errors
/// A folder that cannot be read.
pub fn last(run: &Path) -> Result<Option<PathBuf>, Error> {
    if !run.is_dir() {
        return Ok(None);
    }
    Ok(all(run)?.pop().map(|(_, path)| path))
}

/// Puts a checkpoint's variables and state into `method` and `optimizer`, whose variables are the method's.
///
/// # Errors
/// A file that is missing or malformed, or a tensor that is missing or of another shape than the settings make it.
pub fn load(checkpoint: &Path, method: &mut dyn Method, optimizer: &mut Optimizer) -> Result<Progress, Error> {
    let stored = Stored::read(checkpoint)?;
    stored.restore(method)?;
    let variables = optimizer.variables.iter().zip(&mut optimizer.moments);
    for ((Variable { name, var, .. }, moments), &steps) in variables.zip(&stored.state.moments) {
        *moments = Moments::zeros(var)?;
        if steps > 0 {
            let moment = |kind| stored.get(kind, name, &[var.elem_count()])?.reshape(var.shape()).map_err(Error::from);
            let on_device = |moment: Tensor| moment.to_device(var.device());
            *moments = Moments { first: on_device(moment("first")?)?, second: on_device(moment("second")?)?, steps };
        }
    }
    optimizer.done = stored.state.step;
    Ok(stored.state.progress)
}

/// Puts a checkpoint's variables into `method`, to be exported.
///
/// # Errors
/// As [`load`].
pub fn load_method(checkpoint: &Path, method: &mut dyn Method) -> Result<Progress, Error> {
    let stored = Stored::read(checkpoint)?;
    stored.restore(method)?;
    Ok(stored.state.progress)
}

/// A checkpoint's files.
struct Stored {
    /// Its tensors' file.
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

    /// The tensor `kind.name`, which must have the shape `expected`.
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

    /// Sets the method's variables and its own state.
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
