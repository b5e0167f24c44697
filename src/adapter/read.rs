//! Reading a PEFT checkpoint: all of it is checked against the base's layout, or it is refused whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use super::config::PeftConfig;
use super::pattern::targets;
use super::{Adapter, AdapterError, Delta, ProblemType};
use crate::encoder::{Dim, HeadParameter, Layout};

/// What stands before every name in PEFT's files.
const PREFIX: &str = "base_model.model.";

/// Our `config.json` beside PEFT's files: what PEFT does not store.
#[derive(Debug, Default, Deserialize)]
struct Meta {
    #[serde(default)]
    id2label: Option<BTreeMap<String, String>>,
    #[serde(default)]
    problem_type: Option<ProblemType>,
    #[serde(default)]
    base_fingerprint: Option<String>,
}

/// Reads the adapter in the folder `dir` for a base of `layout`.
///
/// # Errors
/// Whatever is malformed, missing, superfluous or not served, with its file and its name. Nothing is half-loaded.
pub fn read(dir: &Path, layout: &Layout, device: &Device) -> Result<Adapter, AdapterError> {
    let config_path = dir.join("adapter_config.json");
    let config = PeftConfig::read(&config_path)?;
    let meta = read_meta(&dir.join("config.json"))?;
    let path = dir.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).map_err(AdapterError::io(&path))?;
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|error| AdapterError::malformed(&path, format!("not safetensors: {error}")))?;
    let mut file = File::new(&path, &tensors, device)?;
    let mut deltas = vec![None; layout.len()];
    for target in targets(&config_path, &config, layout)? {
        let (name, module) = (layout.name(target.site), layout.module(target.site));
        let a = file.take(&format!("{name}.lora_A.weight"), &[target.rank, module.in_features])?;
        let b = file.take(&format!("{name}.lora_B.weight"), &[module.out_features, target.rank])?;
        deltas[layout.index(target.site)] = Some(Delta { a, b, scale: target.scale });
    }
    let (head, labels) = file.head(&layout.head)?;
    file.finish()?;
    Ok(Adapter {
        deltas,
        head,
        labels: label_names(&dir.join("config.json"), meta.id2label, labels)?,
        problem_type: meta.problem_type,
        base_fingerprint: meta.base_fingerprint,
        base_model: config.base_model_name_or_path,
    })
}

fn read_meta(path: &Path) -> Result<Meta, AdapterError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| AdapterError::malformed(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Meta::default()),
        Err(error) => Err(AdapterError::io(path)(error)),
    }
}

/// A name for each of `labels` outputs: from `id2label`, or `LABEL_0`, ... as in `transformers`.
fn label_names(path: &Path, names: Option<BTreeMap<String, String>>, labels: usize) -> Result<Vec<String>, AdapterError> {
    let Some(names) = names else { return Ok((0..labels).map(|id| format!("LABEL_{id}")).collect()) };
    if names.len() != labels {
        let reason = format!("id2label: expected {labels} labels, as many as the head has outputs, found {}", names.len());
        return Err(AdapterError::malformed(path, reason));
    }
    let name = |id: usize| {
        let name = names.get(&id.to_string()).cloned();
        name.ok_or_else(|| AdapterError::malformed(path, format!("id2label: id {id} is missing")))
    };
    (0..labels).map(name).collect()
}

/// The tensors of a weights file, each to be taken once.
struct File<'a> {
    path: &'a Path,
    tensors: &'a SafeTensors<'a>,
    device: &'a Device,
    /// From the name without PEFT's prefix and adapter name to the name in the file.
    left: BTreeMap<String, String>,
    taken: BTreeSet<String>,
}

impl<'a> File<'a> {
    fn new(path: &'a Path, tensors: &'a SafeTensors<'a>, device: &'a Device) -> Result<Self, AdapterError> {
        let mut left = BTreeMap::new();
        for full in tensors.names() {
            // The long form of a head: `...classifier.modules_to_save.default.weight`.
            let name = full.strip_prefix(PREFIX).unwrap_or(full).replace(".modules_to_save.default.", ".");
            if left.insert(name, full.to_owned()).is_some() {
                return Err(AdapterError::malformed(path, format!("tensor {full} is there twice, in its short and long name")));
            }
        }
        Ok(Self { path, tensors, device, left, taken: BTreeSet::new() })
    }

    fn view(&self, name: &str) -> Option<(String, TensorView<'a>)> {
        let full = self.left.get(name)?;
        Some((full.clone(), self.tensors.tensor(full).ok()?))
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, AdapterError> {
        let Some((full, view)) = self.view(name) else {
            return Err(AdapterError::MissingTensor { path: self.owned_path(), tensor: format!("{PREFIX}{name}") });
        };
        if view.shape() != shape {
            let (expected, found) = (format!("{shape:?}"), view.shape().to_vec());
            return Err(AdapterError::Shape { path: self.owned_path(), tensor: full, expected, found });
        }
        let data = self.floats(&full, &view)?;
        self.taken.insert(name.to_owned());
        Ok(Tensor::from_vec(data, shape, self.device)?)
    }

    /// The tensors of the head and its number of labels.
    fn head(&mut self, parameters: &[HeadParameter]) -> Result<(BTreeMap<String, Tensor>, usize), AdapterError> {
        let (mut head, mut labels) = (BTreeMap::new(), None);
        for HeadParameter { name, shape, required } in parameters {
            let Some((full, view)) = self.view(name) else {
                // A pooler's weight without its bias is half a head.
                let (module, _) = name.rsplit_once('.').unwrap_or((name, ""));
                if *required || head.keys().any(|taken: &String| taken.starts_with(&format!("{module}."))) {
                    return Err(AdapterError::MissingTensor { path: self.owned_path(), tensor: format!("{PREFIX}{name}") });
                }
                continue;
            };
            let size = |(dim, found): (&Dim, &usize)| match dim {
                Dim::Fixed(size) => *size,
                Dim::Labels => labels.unwrap_or(*found),
            };
            let expected: Vec<usize> = shape.iter().zip(view.shape()).map(size).collect();
            if view.shape().len() != shape.len() || view.shape() != expected || expected.contains(&0) {
                let expected = shape.iter().map(|dim| match (dim, labels) {
                    (Dim::Fixed(size), _) | (Dim::Labels, Some(size)) => size.to_string(),
                    (Dim::Labels, None) => "labels".to_owned(),
                });
                let expected = format!("[{}]", expected.collect::<Vec<_>>().join(", "));
                return Err(AdapterError::Shape { path: self.owned_path(), tensor: full, expected, found: view.shape().to_vec() });
            }
            if let Some(dim) = shape.iter().position(|dim| *dim == Dim::Labels) {
                labels = Some(expected[dim]);
            }
            head.insert(name.clone(), self.take(name, &expected)?);
        }
        Ok((head, labels.unwrap_or(0)))
    }

    fn finish(self) -> Result<(), AdapterError> {
        match self.left.iter().find(|(name, _)| !self.taken.contains(*name)) {
            Some((_, full)) => Err(AdapterError::UnexpectedTensor { path: self.owned_path(), tensor: full.clone() }),
            None => Ok(()),
        }
    }

    fn owned_path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn floats(&self, name: &str, view: &TensorView) -> Result<Vec<f32>, AdapterError> {
        let bytes = view.data();
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let data: Vec<f32> = match view.dtype() {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            dtype => {
                let reason = format!("tensor {name}: expected f32, f16 or bf16, found {dtype:?}");
                return Err(AdapterError::malformed(self.path, reason));
            }
        };
        match data.iter().position(|x| !x.is_finite()) {
            Some(index) => {
                let (tensor, found) = (name.to_owned(), data[index]);
                Err(AdapterError::NotFinite { path: self.owned_path(), tensor, index, found })
            }
            None => Ok(data),
        }
    }
}
