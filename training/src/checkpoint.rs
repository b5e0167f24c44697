//! A run's state on disk: `run/checkpoint-N` after epoch N, whole or not at all, after a power cut too. The best and the last are
//! kept, or all.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use polyrank::atomic_file;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::optim::{Moments, Optimizer};

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
pub fn save(run: &Path, optimizer: &Optimizer, progress: &Progress) -> Result<(), Error> {
    let room = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(run).map_err(Error::io(run))?;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for (trainable, moments) in optimizer.trainables.iter().zip(&optimizer.moments) {
        let moment = |data: &Vec<f32>| Tensor::from_slice(data, data.len(), &Device::Cpu);
        tensors.insert(format!("var.{}", trainable.name), trainable.var.to_device(&Device::Cpu)?);
        tensors.insert(format!("first.{}", trainable.name), moment(&moments.first)?);
        tensors.insert(format!("second.{}", trainable.name), moment(&moments.second)?);
        if !moments.saliency.is_empty() {
            tensors.insert(format!("saliency.{}", trainable.name), moment(&moments.saliency)?);
        }
    }
    let weights = room.path().join("state.safetensors");
    let bytes = safetensors::serialize(&tensors, None).map_err(|error| Error::malformed(&weights, error))?;
    atomic_file::write(&weights, &bytes).map_err(Error::io(&weights))?;
    let path = room.path().join("state.json");
    let moments = optimizer.moments.iter().map(|moments| moments.steps).collect();
    let state = State { progress: progress.clone(), step: optimizer.step, moments };
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

/// Puts a checkpoint's variables and state into `optimizer`.
///
/// # Errors
/// A file that is missing or malformed, or a variable that is missing or of another shape than the settings make it.
pub fn load(checkpoint: &Path, optimizer: &mut Optimizer) -> Result<Progress, Error> {
    let path = checkpoint.join("state.json");
    let json = fs::read(&path).map_err(Error::io(&path))?;
    let state: State = serde_json::from_slice(&json).map_err(|error| Error::malformed(&path, error))?;
    let path = checkpoint.join("state.safetensors");
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let tensors =
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| Error::malformed(&path, error))?;
    let get = |kind: &str, name: &str| {
        let name = format!("{kind}.{name}");
        tensors.get(&name).ok_or_else(|| Error::malformed(&path, format!("tensor {name} is missing")))
    };
    if state.moments.len() != optimizer.trainables.len() {
        let (expected, found) = (optimizer.trainables.len(), state.moments.len());
        return Err(Error::malformed(&path, format!("expected the moments of {expected} variables, found {found}")));
    }
    let variables = optimizer.trainables.iter().zip(&mut optimizer.moments);
    for ((trainable, moments), steps) in variables.zip(state.moments) {
        let stored = get("var", &trainable.name)?;
        if stored.shape() != trainable.var.shape() {
            let (name, expected, found) = (&trainable.name, trainable.var.dims(), stored.dims());
            return Err(Error::malformed(
                &path,
                format!("tensor {name}: expected shape {expected:?}, found {found:?}"),
            ));
        }
        trainable.var.set(&stored.to_device(trainable.var.device())?)?;
        let moment = |kind| -> Result<Vec<f32>, Error> { Ok(get(kind, &trainable.name)?.to_vec1()?) };
        let has_saliency = tensors.contains_key(&format!("saliency.{}", trainable.name));
        let saliency = if has_saliency { moment("saliency")? } else { Vec::new() };
        *moments = Moments { first: moment("first")?, second: moment("second")?, steps, saliency };
    }
    optimizer.step = state.step;
    Ok(state.progress)
}
