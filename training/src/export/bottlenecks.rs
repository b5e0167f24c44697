//! Bottlenecks on disk: their tensors and the head's in `bottleneck.safetensors`, their size and their base in
//! `bottleneck_config.json`, and the labels in `config.json`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use polyrank::adapter::{AdapterError, AdapterInfo, classifier_config, read_labels};
use polyrank::atomic_file;
use polyrank::encoder::Head;
use polyrank::engine::Engine;
use polyrank::params::{Dim, HeadParameter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::method::{Bottleneck, Bottlenecks, sites};

/// The size and the base.
pub(super) const CONFIG: &str = "bottleneck_config.json";
/// The tensors.
const WEIGHTS: &str = "bottleneck.safetensors";
/// The files of a folder.
pub(super) const FILES: [&str; 3] = [CONFIG, WEIGHTS, super::CONFIG];

/// The content of [`CONFIG`].
#[derive(Serialize, Deserialize)]
struct Config {
    /// The number of values inside each bottleneck.
    bottleneck: usize,
    base_model_name_or_path: Option<String>,
    base_fingerprint: Option<String>,
}

/// Writes the files, and removes the files `stale`. The weights come last.
pub(super) fn write(
    dir: &Path,
    bottlenecks: &Bottlenecks,
    base_config: &Map<String, Value>,
    stale: &[PathBuf],
) -> Result<(), Error> {
    let Bottlenecks { info, sites, layout, head, .. } = bottlenecks;
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (site, bottleneck) in layout.sites().zip(sites) {
        let Some(bottleneck) = bottleneck else { continue };
        for (part, tensor) in Bottleneck::PARTS.into_iter().zip(bottleneck.parts()) {
            tensors.insert(format!("{}.{part}", layout.name(site)), tensor.to_device(&Device::Cpu)?);
        }
    }
    for (name, tensor) in head {
        tensors.insert(name.clone(), tensor.to_device(&Device::Cpu)?);
    }
    let labels = classifier_config(info, layout.layers, base_config);
    let (path, weights) = (dir.join(CONFIG), dir.join(WEIGHTS));
    let config = Config {
        bottleneck: sites.iter().flatten().next().map_or(0, |first| first.down.dims()[0]),
        base_model_name_or_path: info.base_model.clone(),
        base_fingerprint: info.base_fingerprint.clone(),
    };
    let json = serde_json::to_string_pretty(&config).map_err(|error| Error::malformed(&path, error))?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|error| Error::malformed(&weights, error))?;
    let files = [
        (dir.join(super::CONFIG), format!("{labels:#}\n").into_bytes()),
        (path, format!("{json}\n").into_bytes()),
        (weights, bytes),
    ];
    atomic_file::replace(&files, stale).map_err(|(path, source)| Error::Io { path, source })
}

/// Reads the files, and checks them against the base of `engine`.
pub(super) fn read(dir: &Path, engine: &Engine) -> Result<Bottlenecks, Error> {
    let (path, layout) = (dir.join(CONFIG), engine.layout());
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| Error::malformed(&path, error))?;
    if let Some(expected) = config.base_fingerprint.as_ref().filter(|expected| *expected != engine.base_fingerprint()) {
        let (expected, found) = (expected.clone(), engine.base_fingerprint().to_owned());
        return Err(AdapterError::WrongBase { file: path, expected, found, names: None }.into());
    }
    let mut stored = Stored::read(dir, engine)?;
    let mut all = vec![None; layout.len()];
    for site in sites(layout) {
        let shapes = Bottleneck::shapes(config.bottleneck, layout.module(site).out_features);
        let take = |(part, shape): (&str, &Vec<usize>)| stored.take(&format!("{}.{part}", layout.name(site)), shape);
        let parts: Result<Vec<Tensor>, Error> = Bottleneck::PARTS.into_iter().zip(&shapes).map(take).collect();
        all[layout.index(site)] = <[Tensor; 4]>::try_from(parts?).ok().map(Bottleneck::of);
    }
    let (head, outputs) = stored.take_head(&layout.head)?;
    stored.finish()?;
    let (labels, problem_type) = read_labels(&dir.join(super::CONFIG), outputs)?;
    let info = AdapterInfo {
        labels,
        problem_type,
        base_fingerprint: config.base_fingerprint,
        base_model: config.base_model_name_or_path,
    };
    let (layout, backend) = (layout.clone(), engine.backend().clone());
    Ok(Bottlenecks { info, sites: all, layout, backend, head })
}

/// The tensors of a file that have not been taken yet.
struct Stored<'a> {
    path: std::path::PathBuf,
    tensors: HashMap<String, Tensor>,
    device: &'a Device,
}

impl<'a> Stored<'a> {
    fn read(dir: &Path, engine: &'a Engine) -> Result<Self, Error> {
        let path = dir.join(WEIGHTS);
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
        let tensors = tensors.map_err(|error| Error::malformed(&path, error))?;
        Ok(Self { path, tensors, device: engine.device() })
    }

    /// The tensor `name`, which must have the shape `expected` and finite elements.
    fn take(&mut self, name: &str, expected: &[usize]) -> Result<Tensor, Error> {
        let wrong = |reason: String| Err(Error::malformed(&self.path, format!("tensor {name}{reason}")));
        let Some(tensor) = self.tensors.remove(name) else { return wrong(" is missing".to_owned()) };
        if tensor.dims() != expected {
            return wrong(format!(": expected shape {expected:?}, found {:?}", tensor.dims()));
        }
        if tensor.dtype() != DType::F32 {
            return wrong(format!(": expected type F32, found {:?}", tensor.dtype()));
        }
        match tensor.flatten_all()?.to_vec1::<f32>()?.iter().find(|x| !x.is_finite()) {
            Some(found) => wrong(format!(": expected finite numbers, found {found}")),
            None => Ok(tensor.to_device(self.device)?),
        }
    }

    /// The tensors of the head, and its number of outputs. Those that the base has may be absent.
    fn take_head(&mut self, parameters: &[HeadParameter]) -> Result<(Head, usize), Error> {
        let labels = parameters.iter().find(|parameter| parameter.shape == [Dim::Labels]);
        let bias = labels.map_or("classifier.bias", |bias| &bias.name);
        let Some(outputs) = self.tensors.get(bias).map(Tensor::elem_count) else {
            return Err(Error::malformed(&self.path, format!("tensor {bias} is missing")));
        };
        let mut head = Head::new();
        for HeadParameter { name, shape, required } in parameters {
            let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { outputs };
            if *required || self.tensors.contains_key(name) {
                let shape: Vec<usize> = shape.iter().map(size).collect();
                head.insert(name.clone(), self.take(name, &shape)?);
            }
        }
        Ok((head, outputs))
    }

    /// Checks that nothing is left.
    fn finish(self) -> Result<(), Error> {
        match self.tensors.keys().min() {
            Some(name) => {
                let reason = format!("tensor {name} belongs to no bottleneck and to no head of the base");
                Err(Error::malformed(&self.path, reason))
            }
            None => Ok(()),
        }
    }
}
