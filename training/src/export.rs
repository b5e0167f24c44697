//! What a method leaves: made from its variables or from a checkpoint, written to a folder, and read from it.
//!
//! | file | idea |
//! | --- | --- |
//! | `model` | a model folder of `transformers` (full fine-tuning and BitFit) |
//! | `bottlenecks` | the files of bottlenecks, for which neither PEFT nor `transformers` has a format |

mod bottlenecks;
mod model;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use polyrank::adapter::{self, Adapter, AdapterInfo, Change, ProblemType};
use polyrank::encoder::Head;
use polyrank::engine::Engine;
use polyrank::params::{Backend, Dim, HeadParameter, Layout, Precision};
use serde_json::{Map, Value};

use crate::checkpoint::{self, Progress};
use crate::data::TargetUnit;
use crate::error::Error;
use crate::evaluate::Parameters;
use crate::fine_tuned::FineTuned;
use crate::method::{Export, Method};
use crate::run::{self, Facts, Folders};
use crate::settings::Settings;

/// The configuration that every kind of export has.
const CONFIG: &str = "config.json";

/// What the method has trained so far, pruned exactly, with its description. `unit` is the unit in which the targets of a regression
/// were learned. The exported outputs are in the targets' own unit.
///
/// # Errors
/// A tensor operation fails.
pub fn export_of(
    method: &dyn Method,
    engine: &Engine,
    labels: &[String],
    problem: ProblemType,
    unit: Option<TargetUnit>,
    model_id: &str,
) -> Result<Export, Error> {
    let info = AdapterInfo {
        labels: labels.to_vec(),
        problem_type: Some(problem),
        base_fingerprint: Some(engine.base_fingerprint().to_owned()),
        base_model: Some(model_id.to_owned()),
    };
    let mut export = method.export(info)?;
    if let Some(unit) = unit {
        give_unit(export.head_mut(), engine.layout(), unit)?;
    }
    Ok(export)
}

/// Changes the outputs of a head from what was learned to the targets' own unit: `y = spread x + mean`.
fn give_unit(head: &mut Head, layout: &Layout, TargetUnit { mean, spread }: TargetUnit) -> Result<(), Error> {
    for HeadParameter { name, shape, .. } in
        layout.head.iter().filter(|parameter| parameter.shape.contains(&Dim::Labels))
    {
        if let Some(tensor) = head.get_mut(name) {
            let is_bias = shape.len() == 1;
            *tensor = tensor.affine(spread, if is_bias { mean } else { 0.0 })?;
        }
    }
    Ok(())
}

/// The export of a checkpoint, and the progress at that checkpoint. `settings` and `facts` describe its run.
///
/// # Errors
/// The checkpoint is malformed or does not fit the settings.
pub fn from_checkpoint(
    checkpoint: &Path,
    engine: &Engine,
    settings: &Settings,
    facts: &Facts,
) -> Result<(Export, Progress), Error> {
    let mut method = settings.method(engine, facts.size())?;
    let progress = checkpoint::load_method(checkpoint, &mut *method)?;
    let export = export_of(&*method, engine, &facts.labels, facts.problem, facts.unit, &settings.model_id)?;
    Ok((export, progress))
}

/// Writes an export to the folder `dir`, which is created if it does not exist. `base` is the folder of the base of `engine`. The files
/// of another export that are in the folder are replaced or removed, so that it holds one. A process that is killed meanwhile leaves
/// that one, the new one, or a folder without weights ([`polyrank::atomic_file::replace`]).
///
/// # Errors
/// A file cannot be read, written or removed.
pub fn write(dir: &Path, engine: &Engine, export: &Export, base: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let (config, ours) = (base_config(base)?, run::is_export(dir));
    let kept: Vec<&str> = match export {
        Export::Adapter(_) => adapter::NAMES.to_vec(),
        Export::Model(_) => model::files(base),
        Export::Bottlenecks(_) => bottlenecks::FILES.to_vec(),
    };
    // An adapter that another program wrote would be read instead of the new export. Its other files are not ours to remove.
    let goes = |name: &&&str| !kept.contains(*name) && (ours || adapter::NAMES.contains(*name));
    let all = adapter::NAMES.iter().chain(&model::FILES).chain(&bottlenecks::FILES);
    let stale: Vec<PathBuf> = all.filter(goes).map(|name| dir.join(name)).collect();
    match export {
        Export::Adapter(adapter) => Ok(adapter::replace(dir, engine.layout(), adapter, &config, &stale)?),
        Export::Model(model) => model::write(dir, engine, (model, Parameters::of(export)), (base, &config), &stale),
        Export::Bottlenecks(bottlenecks) => bottlenecks::write(dir, bottlenecks, &config, &stale),
    }
}

/// Whether `dir` holds a `transformers` model, and neither an adapter nor bottlenecks.
#[must_use]
pub fn is_model(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).is_file();
    has(model::WEIGHTS) && !has(bottlenecks::CONFIG) && !has(adapter::NAMES[0])
}

/// Reads an adapter or bottlenecks from the folder `dir`, and checks them against the base of `engine`.
///
/// # Errors
/// A file is missing or malformed, or was trained on another base.
pub fn read(dir: &Path, engine: &Engine) -> Result<Export, Error> {
    if dir.join(bottlenecks::CONFIG).is_file() {
        return Ok(Export::Bottlenecks(bottlenecks::read(dir, engine)?));
    }
    match engine.load_adapter(dir) {
        Ok(adapter) => Ok(Export::Adapter(without_empty_rank(adapter)?)),
        Err(error) => Err(match adapter::describe_folder(dir).or_else(|| without_weights(dir)) {
            Some(instead) => Error::NotAdapter { dir: dir.to_owned(), instead },
            None => error.into(),
        }),
    }
}

/// The adapter without the one rank, with a zero `B`, that its files hold where no rank is left, because PEFT's format has no rank 0.
fn without_empty_rank(mut adapter: Adapter) -> Result<Adapter, Error> {
    let mut active = adapter.weights.sites.iter_mut().filter(|site| site.is_some());
    if let (Some(only), None) = (active.next(), active.next())
        && let Some(delta) = only.as_ref().map(Change::delta)
        && delta.rank() == 1
        && delta.b.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| *x == 0.0)
    {
        *only = None;
    }
    Ok(adapter)
}

/// Why a folder that a command of training has begun to fill has neither an adapter nor other weights; `None` if none has.
fn without_weights(dir: &Path) -> Option<String> {
    if adapter::NAMES[..2].iter().any(|name| dir.join(name).is_file()) {
        return None;
    }
    Some(match Folders::find(dir) {
        Some(Folders { output, .. }) if output != dir => {
            format!("it is the folder of a run (--run-dir), whose adapter is in {}", output.display())
        }
        Some(_) => "it has no weights, because its run has not written them; --resume continues the run".to_owned(),
        None if run::is_export(dir) => {
            "it has no weights, because the command that wrote the folder was ended; repeat it with an empty folder"
                .to_owned()
        }
        None => return None,
    })
}

/// Opens the model in the folder `dir`, such as full fine-tuning leaves: the engine of its own encoder, its head, and its numbers of
/// trained parameters. The other arguments are those of [`Engine::prepacked`].
///
/// # Errors
/// A file is missing or malformed, or the model is not a text classifier.
pub fn read_model(
    dir: &Path,
    backend: impl Into<Backend>,
    precision: Precision,
    cache: Option<PathBuf>,
) -> Result<(Engine, Export, Parameters), Error> {
    let model = FineTuned::open(dir, backend, precision, cache)?;
    let head = model.export();
    let parameters = model::parameters(dir, &model.engine)?;
    Ok((model.engine, head, parameters))
}

/// The keys of the `config.json` in the folder `dir`.
fn base_config(dir: &Path) -> Result<Map<String, Value>, Error> {
    let path = dir.join(CONFIG);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::malformed(&path, error))
}
