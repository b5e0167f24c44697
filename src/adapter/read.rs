//! Reads a PEFT checkpoint. All of it is checked against the base's layout; if anything is wrong, the whole adapter is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::config::PeftConfig;
use super::error::BaseNames;
use super::files::{Bytes, Files, LABELS, PREFIX, refuse_state_dict};
use super::labels::Labels;
use super::pattern::{Saved, Target, targets};
use super::{Adapter, AdapterError, AdapterInfo, AdapterWeights, Change, placed};
use crate::base::{Base, ModelError};
use crate::params::{Backend, Delta, Dim, HeadParameter, Layout};

/// Reads the adapter in the folder `dir` for a base of `layout`: `adapter_config.json`, `adapter_model.safetensors`, and `config.json`
/// if there is one. The tensors are placed where `backend` reads them: as f32 on the CPU; in a GPU's memory, deltas have the type of the
/// activations, and all tensors of one type are one block. The base's fingerprint is not compared here.
///
/// ```
/// use std::path::Path;
///
/// use candle_core::Device;
/// use polyrank::adapter;
/// use polyrank::base::{BaseConfig, layout};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let base = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert"));
/// let layout = layout(&BaseConfig::read(base)?)?;
/// let adapter = adapter::read(&base.join("ragged"), &layout, &Device::Cpu)?;
/// assert_eq!(adapter.info.labels, ["negative", "neutral", "positive"]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A part of the adapter is malformed, missing, superfluous or not supported; the error names the file and the part. An adapter with a
/// delta of a linear of the head needs [`over`]. An adapter is never loaded in part.
pub fn read(dir: &Path, layout: &Layout, backend: impl Into<Backend>) -> Result<Adapter, AdapterError> {
    parse(&Files::read(dir)?, layout, None, &backend.into())
}

/// As [`read`], for `base` and for files that have been read. If the adapter records a fingerprint, it is compared with that of `base`
/// first, so that a wrong base is reported as such and not as a wrong shape. A delta of a linear of the head (BERT's pooler) is added to
/// the base's weight, and the sum becomes part of the adapter.
///
/// # Errors
/// As [`read`], and [`AdapterError::WrongBase`].
pub fn over(files: &Files, layout: &Layout, base: &Base, backend: impl Into<Backend>) -> Result<Adapter, AdapterError> {
    if let Some(labels) = &files.labels
        && let Some(expected) = Labels::parse(Some(labels))?.polyrank.base_fingerprint
    {
        let found = base.fingerprint();
        if expected != found {
            let trained_on = PeftConfig::parse(&files.config).ok().and_then(|config| config.base_model);
            let names = Some(Box::new(BaseNames { trained_on, loaded: base.name() }));
            let (file, found) = (labels.file.clone(), found.to_owned());
            return Err(AdapterError::WrongBase { file, expected, found, names });
        }
    }
    let parameter = |name: &str, shape: &[usize]| {
        if base.weights.contains(name) { Ok(Some(base.weights.parameter(name, shape)?.tensor()?)) } else { Ok(None) }
    };
    parse(files, layout, Some(&parameter), &backend.into())
}

/// Returns a parameter of the base's head, by name and shape; `None` if the base lacks it.
pub(super) type Parameter<'a> = &'a dyn Fn(&str, &[usize]) -> Result<Option<Tensor>, ModelError>;

/// Refuses a delta of the classifier. PEFT writes one if the task type is not `SEQ_CLS` and all linears are targets; then the classifier
/// itself was not trained, and is not in the file.
pub(super) fn refuse_deltas_of_classifier(files: &Files, tensors: &SafeTensors) -> Result<(), AdapterError> {
    let module = |name: &str| {
        let (module, _) = name.strip_prefix(PREFIX)?.split_once(".lora_A.")?;
        matches!(module.split('.').next(), Some("classifier" | "score")).then(|| module.to_owned())
    };
    match tensors.names().into_iter().find_map(module) {
        Some(module) => Err(AdapterError::unsupported(&files.config.file, "target_modules", module)),
        None => Ok(()),
    }
}

/// Parses the adapter in `files`. Without `base`, deltas of the head's linears are refused.
pub(crate) fn parse(
    files: &Files,
    layout: &Layout,
    base: Option<Parameter>,
    backend: &Backend,
) -> Result<Adapter, AdapterError> {
    let config = PeftConfig::parse(&files.config)?;
    let labels = Labels::parse(files.labels.as_ref())?;
    let tensors = tensors(&files.weights)?;
    refuse_deltas_of_classifier(files, &tensors)?;
    let mut weights = Weights::new(&files.weights.file, &tensors)?;
    let mut sites = vec![None; layout.len()];
    let targets = targets(&files.config.file, &config, layout)?;
    if let Some(linear) = targets.head.first().filter(|_| base.is_none()) {
        return Err(AdapterError::unsupported(&files.config.file, "target_modules", &linear.what));
    }
    for Target { what: site, rank, scale } in targets.sites {
        let (name, module) = (layout.name(site), layout.module(site));
        let a = weights.take(&format!("{name}.lora_A.weight"), &[rank, module.in_features], backend.dtype())?;
        let b = weights.take(&format!("{name}.lora_B.weight"), &[module.out_features, rank], backend.dtype())?;
        // In memory, `b` has a row for each rank, as the kernel reads it.
        let b = b.t()?.contiguous()?.t()?;
        sites[layout.index(site)] = Some(Change::LowRank(Delta { a, b, scale }));
    }
    let saved = Saved::new(&files.config.file, &config)?;
    let (mut head, outputs) = weights.take_head(&layout.head, &saved)?;
    for (target, base) in targets.head.iter().zip(base.into_iter().cycle()) {
        weights.merge(target, layout, base, &mut head)?;
    }
    weights.finish(&files.config.file, &saved)?;
    let mut weights = AdapterWeights { sites, head };
    placed::place(&mut weights, backend)?;
    let labels_file = files.labels.as_ref().map_or(Path::new(LABELS), |labels| &labels.file);
    Ok(Adapter {
        info: AdapterInfo {
            labels: labels.names(labels_file, outputs)?,
            problem_type: labels.problem_type,
            base_fingerprint: labels.polyrank.base_fingerprint,
            base_model: config.base_model,
        },
        weights,
    })
}

/// The tensors of a weights file, if they are named as in an adapter. From here on, all offsets and sizes are known to be inside the file.
pub(super) fn tensors(Bytes { file, bytes }: &Bytes) -> Result<SafeTensors<'_>, AdapterError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| AdapterError::malformed(file, format!("not a safetensors file: {error}")))?;
    refuse_state_dict(file, tensors.names())?;
    Ok(tensors)
}

/// The tensors of a weights file, each of which is taken once.
struct Weights<'a> {
    file: &'a Path,
    tensors: &'a SafeTensors<'a>,
    /// Maps names in the base to names in the file, for the tensors that are not taken yet.
    left: BTreeMap<String, String>,
}

/// Shortens the name of a head's tensor: `classifier.modules_to_save.default.weight`, where `default` is the adapter's name, becomes
/// `classifier.weight`.
pub(super) fn short(name: &str) -> String {
    let long = name.split_once(".modules_to_save.").and_then(|(module, rest)| Some((module, rest.split_once('.')?.1)));
    long.map_or_else(|| name.to_owned(), |(module, parameter)| format!("{module}.{parameter}"))
}

impl<'a> Weights<'a> {
    fn new(file: &'a Path, tensors: &'a SafeTensors<'a>) -> Result<Self, AdapterError> {
        let (mut left, mut foreign) = (BTreeMap::new(), BTreeSet::new());
        for full in tensors.names() {
            let Some(name) = full.strip_prefix(PREFIX) else {
                foreign.insert(full);
                continue;
            };
            let name = short(name);
            if let Some(other) = left.insert(name, full.to_owned()) {
                let reason = format!("one tensor under two names, {full} and {other}");
                return Err(AdapterError::malformed(file, reason));
            }
        }
        match foreign.first() {
            Some(&tensor) => Err(AdapterError::UnexpectedTensor { file: file.to_owned(), tensor: tensor.to_owned() }),
            None => Ok(Self { file, tensors, left }),
        }
    }

    fn file(&self) -> PathBuf {
        self.file.to_owned()
    }

    fn missing(&self, name: &str) -> AdapterError {
        AdapterError::MissingTensor { file: self.file(), tensor: format!("{PREFIX}{name}") }
    }

    /// The tensor `name`, and its name in the file.
    fn view(&self, name: &str) -> Option<(String, TensorView<'a>)> {
        let full = self.left.get(name)?;
        Some((full.clone(), self.tensors.tensor(full).ok()?))
    }

    /// Takes the tensor `name` as f32 on the CPU. Its elements must be numbers that `dtype` can hold.
    fn take(&mut self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, AdapterError> {
        let (full, view) = self.view(name).ok_or_else(|| self.missing(name))?;
        if view.shape() != shape {
            let (expected, found) = (format!("{shape:?}"), view.shape().to_vec());
            return Err(AdapterError::Shape { file: self.file(), tensor: full, expected, found });
        }
        let data = self.floats(&full, &view, dtype)?;
        self.left.remove(name);
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
    }

    /// The tensors of the head, and its number of outputs. The first tensor gives this number, and the others must agree.
    fn take_head(
        &mut self,
        parameters: &[HeadParameter],
        saved: &Saved,
    ) -> Result<(BTreeMap<String, Tensor>, usize), AdapterError> {
        let (mut head, mut outputs) = (BTreeMap::<String, Tensor>::new(), None);
        for HeadParameter { name, shape, required } in parameters {
            let Some((full, view)) = self.view(name) else {
                // A linear of the head needs its bias as well as its weight.
                let module = name.rsplit_once('.').map_or("", |(module, _)| module);
                let begun = head.keys().any(|taken| taken.rsplit_once('.').is_some_and(|(other, _)| other == module));
                if *required || begun || saved.holds(name)? {
                    return Err(self.missing(name));
                }
                continue;
            };
            let found = view.shape();
            let sizes = shape.iter().zip(found).map(|(dim, &found)| match dim {
                Dim::Fixed(size) => *size,
                Dim::Labels => outputs.unwrap_or(found).max(1),
            });
            let expected: Vec<usize> = sizes.collect();
            if found.len() != shape.len() || found != expected {
                let (expected, found) = (shape_with_labels(shape, outputs), found.to_vec());
                return Err(AdapterError::Shape { file: self.file(), tensor: full, expected, found });
            }
            if let Some(dim) = shape.iter().position(|dim| *dim == Dim::Labels) {
                outputs = Some(expected[dim]);
            }
            head.insert(name.clone(), self.take(name, &expected, DType::F32)?);
        }
        Ok((head, outputs.unwrap_or(1)))
    }

    /// Puts the linear of `target` into `head`: the base's weight plus the adapter's delta, `W + scale B A`. Also copies the missing
    /// parameters of the base's head, so that `head` is complete.
    fn merge(
        &mut self,
        Target { what: linear, rank, scale }: &Target<String>,
        layout: &Layout,
        base: Parameter,
        head: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), AdapterError> {
        let hidden = layout.hidden;
        let a = self.take(&format!("{linear}.lora_A.weight"), &[*rank, hidden], DType::F32)?;
        let b = self.take(&format!("{linear}.lora_B.weight"), &[hidden, *rank], DType::F32)?;
        let weight = format!("{linear}.weight");
        if head.contains_key(&weight) {
            return Err(AdapterError::malformed(self.file, format!("{linear} is saved both in full and as a delta")));
        }
        for HeadParameter { name, shape, .. } in
            layout.head.iter().filter(|parameter| !parameter.shape.contains(&Dim::Labels))
        {
            if head.contains_key(name) {
                continue;
            }
            let parameter = base(name, &vec![hidden; shape.len()]);
            let parameter = parameter.map_err(|error| AdapterError::Base(Box::new(error)))?;
            let mut parameter = parameter.ok_or_else(|| self.missing(name))?;
            if *name == weight {
                parameter = (parameter + (b.matmul(&a)? * *scale)?)?;
            }
            head.insert(name.clone(), parameter);
        }
        Ok(())
    }

    /// Refuses a file with tensors that were not taken. If `modules_to_save` selects such a tensor, the error names that key.
    fn finish(self, config: &Path, saved: &Saved) -> Result<(), AdapterError> {
        let Some((name, full)) = self.left.first_key_value() else { return Ok(()) };
        let module = name.rsplit_once('.').map_or(&**name, |(module, _)| module);
        if saved.holds(module)? {
            Err(AdapterError::unsupported(config, "modules_to_save", module))
        } else {
            Err(AdapterError::UnexpectedTensor { file: self.file(), tensor: full.clone() })
        }
    }

    fn floats(&self, name: &str, view: &TensorView<'_>, held_as: DType) -> Result<Vec<f32>, AdapterError> {
        let bytes = view.data();
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let data: Vec<f32> = match view.dtype() {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            dtype => {
                let reason = format!("tensor {name}: expected f64, f32, f16 or bf16, found {dtype:?}");
                return Err(AdapterError::malformed(self.file, reason));
            }
        };
        let largest = match held_as {
            DType::BF16 => bf16::MAX.to_f32(),
            DType::F16 => f16::MAX.to_f32(),
            _ => f32::MAX,
        };
        let Some(index) = data.iter().position(|x| x.is_nan() || x.abs() > largest) else { return Ok(data) };
        let (file, tensor, found) = (self.file(), name.to_owned(), data[index]);
        if found.is_finite() {
            Err(AdapterError::OutOfRange { file, tensor, index, found, dtype: held_as.as_str() })
        } else {
            Err(AdapterError::NotFinite { file, tensor, index, found })
        }
    }
}

/// A shape as text: `[labels, 384]`, or `[3, 384]` if the number of labels is known.
fn shape_with_labels(shape: &[Dim], outputs: Option<usize>) -> String {
    let sizes = shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Labels => outputs.map_or("labels".to_owned(), |outputs| outputs.to_string()),
    });
    format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
}
