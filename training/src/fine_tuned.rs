//! Opens a fine-tuned `transformers` classifier: an encoder, its head and its labels in one folder.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use polyrank::adapter::{Adapter, AdapterInfo, AdapterWeights, ProblemType, read_labels};
use polyrank::base::{ModelError, Weights};
use polyrank::encoder::Head;
use polyrank::engine::Engine;
use polyrank::params::{Backend, Dim, HeadParameter, Precision};
use serde::Deserialize;

use crate::error::Error;
use crate::method::Export;

/// The suffix of the classes of `transformers` that classify whole texts.
const CLASSIFIER: &str = "ForSequenceClassification";

/// A fine-tuned classifier.
pub struct FineTuned {
    /// The folder, whose weights are in `model.safetensors`.
    pub dir: PathBuf,
    /// The encoder and its tokenizer.
    pub engine: Engine,
    /// Every tensor of [`polyrank::params::Layout::head`], f32, on the device of the engine.
    pub head: Head,
    /// The name of each output, in order of id.
    pub labels: Vec<String>,
    /// `problem_type` in `config.json`, if it is given there.
    pub problem_type: Option<ProblemType>,
}

/// The key of `config.json` that only this module reads.
#[derive(Deserialize)]
struct Classes {
    architectures: Option<Vec<String>>,
}

impl FineTuned {
    /// Opens the classifier in the folder `dir`, as [`polyrank::base::ensure`] returns it, which converts older formats and fetches
    /// models of the hub. The other arguments are those of [`Engine::prepacked`].
    ///
    /// # Errors
    /// A file is missing or malformed, the class of the model is not a text classifier, or a tensor of the head is missing or has
    /// another shape. The error names the file and the tensor.
    pub fn open(
        dir: &Path,
        backend: impl Into<Backend>,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, Error> {
        check_class(&dir.join("config.json"))?;
        let engine = Engine::prepacked(dir, backend, precision, cache)?;
        let (head, outputs) = head(dir, &engine)?;
        let (labels, problem_type) = read_labels(&dir.join("config.json"), outputs)?;
        Ok(Self { dir: dir.to_owned(), engine, head, labels, problem_type })
    }

    /// What the outputs mean. Where the folder does not say, `transformers` takes one output for a regression and several for the
    /// classes of one label.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        self.problem_type.unwrap_or(match self.labels.len() {
            1 => ProblemType::Regression,
            _ => ProblemType::SingleLabelClassification,
        })
    }

    /// The model with outputs that mean what the user says.
    ///
    /// # Errors
    /// The folder says otherwise, or the model has not the one output of a regression.
    pub fn with_problem(self, problem: ProblemType) -> Result<Self, Error> {
        let expected = self.problem_type.unwrap_or(match (problem, self.labels.len()) {
            (ProblemType::Regression, outputs) if outputs != 1 => self.problem(),
            _ => problem,
        });
        if problem != expected {
            let name = |problem: ProblemType| problem.to_possible_value().map(|value| value.get_name().to_owned());
            let [expected, found] = [expected, problem].map(|problem| name(problem).unwrap_or_default());
            let reason = format!("--problem-type: expected {expected}, as {} says, found {found}", self.dir.display());
            return Err(Error::Settings(reason));
        }
        Ok(Self { problem_type: Some(problem), ..self })
    }

    /// The model as an adapter of its own encoder: the head alone. With [`Self::engine`] it gives the model's logits.
    #[must_use]
    pub fn export(&self) -> Export {
        let info = AdapterInfo {
            labels: self.labels.clone(),
            problem_type: Some(self.problem()),
            base_fingerprint: None,
            base_model: None,
        };
        let sites = vec![None; self.engine.layout().len()];
        Export::Adapter(Adapter { info, weights: AdapterWeights { sites, head: self.head.clone() } })
    }
}

/// Checks that the class named in `config.json`, if there is one, classifies whole texts. The classes for tokens and for multiple
/// choice have tensors with the same names.
fn check_class(config: &Path) -> Result<(), Error> {
    let bytes = std::fs::read(config).map_err(Error::io(config))?;
    let Classes { architectures } = serde_json::from_slice(&bytes).map_err(|error| Error::malformed(config, error))?;
    match architectures.unwrap_or_default().first() {
        Some(class) if !class.ends_with(CLASSIFIER) => {
            Err(Error::NotClassifier { path: config.to_owned(), found: format!("architectures {class}") })
        }
        _ => Ok(()),
    }
}

/// All tensors of the model's head, and its number of outputs.
fn head(dir: &Path, engine: &Engine) -> Result<(Head, usize), Error> {
    let path = dir.join("model.safetensors");
    let weights = Weights::open(&path)?;
    let parameters = &engine.layout().head;
    let mut outputs = None;
    for HeadParameter { name, shape, .. } in parameters.iter().filter(|parameter| parameter.required) {
        let Some(found) = weights.find(name) else {
            let found = format!("no tensor {name}");
            return Err(Error::NotClassifier { path, found });
        };
        let labels = shape.iter().position(|dim| *dim == Dim::Labels);
        outputs = outputs.or(labels.and_then(|dim| found.shape.get(dim).copied()));
    }
    let outputs = outputs.filter(|outputs| *outputs > 0);
    let outputs = outputs.ok_or_else(|| Error::NotClassifier { path: path.clone(), found: "no output".to_owned() })?;
    let read = |HeadParameter { name, shape, .. }: &HeadParameter| {
        let size = |dim: &Dim| match dim {
            Dim::Labels => outputs,
            Dim::Fixed(size) => *size,
        };
        let shape: Vec<usize> = shape.iter().map(size).collect();
        let tensor = weights.parameter(name, &shape)?.tensor().map_err(ModelError::from)?;
        Ok((name.clone(), tensor.to_device(engine.device())?))
    };
    Ok((parameters.iter().map(read).collect::<Result<Head, Error>>()?, outputs))
}
