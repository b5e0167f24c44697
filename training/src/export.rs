//! Makes an adapter from a method's variables.

use std::path::Path;

use polyrank::adapter::{Adapter, AdapterInfo, ProblemType};
use polyrank::engine::Engine;

use crate::checkpoint::{self, Progress};
use crate::error::Error;
use crate::method::Method;
use crate::run::Facts;
use crate::settings::Settings;

/// The adapter of the method's current variables, pruned exactly, with its description.
///
/// # Errors
/// A tensor operation fails.
pub fn adapter_of(
    method: &dyn Method,
    engine: &Engine,
    labels: &[String],
    problem: ProblemType,
    model_id: &str,
) -> Result<Adapter, Error> {
    let info = AdapterInfo {
        labels: labels.to_vec(),
        problem_type: Some(problem),
        base_fingerprint: Some(engine.base_fingerprint().to_owned()),
        base_model: Some(model_id.to_owned()),
    };
    Ok(method.export(info)?)
}

/// The adapter of a checkpoint, and the progress at that checkpoint. `settings` and `facts` describe its run.
///
/// # Errors
/// The checkpoint is malformed or does not fit the settings.
pub fn from_checkpoint(
    checkpoint: &Path,
    engine: &Engine,
    settings: &Settings,
    facts: &Facts,
) -> Result<(Adapter, Progress), Error> {
    let mut method = settings.method(engine, facts.labels.len(), facts.train.examples)?;
    let progress = checkpoint::load_method(checkpoint, &mut *method)?;
    let adapter = adapter_of(&*method, engine, &facts.labels, facts.problem, &settings.model_id)?;
    Ok((adapter, progress))
}
