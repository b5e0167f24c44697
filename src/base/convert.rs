//! Converts older formats once to the format that is served: `model.safetensors` from shards or from `pytorch_model.bin`, and
//! `tokenizer.json` from a SentencePiece model or a vocabulary.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::pickle::{PthTensors, TensorInfo};
use candle_core::{DType, Tensor};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::files::{INDEX, PICKLE, PICKLE_INDEX, TOKENIZER, WEIGHTS};
use super::legacy::{self, Legacy};
use super::weights::map;
use super::{BaseConfig, ModelError, pickle, tokenizer_files};
use crate::atomic_file;

/// The first bytes of a zip archive.
const ARCHIVE: &[u8] = b"PK";

/// The largest total size of a pickle's tensors, as a multiple of the file's size.
const GROWTH: u64 = 4;

/// Makes the weights and the tokenizer in `dir` if they are not in the format that is served, and removes the weights files that
/// they were made from.
///
/// # Errors
/// If a file is malformed, or the folder has no file to convert from.
pub(crate) fn complete(dir: &Path) -> Result<(), ModelError> {
    tokenizer(dir)?;
    if dir.join(WEIGHTS).is_file() { Ok(()) } else { weights(dir) }
}

/// Makes the tokenizer in `dir` if there is none.
///
/// # Errors
/// If a file is malformed, the tokenizer is not supported, or the folder has no file to make it from.
pub(super) fn tokenizer(dir: &Path) -> Result<(), ModelError> {
    let path = dir.join(TOKENIZER);
    if path.is_file() {
        return Ok(());
    }
    let bytes = tokenizer_files::tokenizer(dir, &BaseConfig::read(dir)?.tokenizer_inputs())?.to_string();
    tokenizers::Tokenizer::from_bytes(&bytes)
        .map_err(|error| ModelError::Convert { path: path.clone(), reason: error.to_string() })?;
    atomic_file::write(&path, bytes.as_bytes()).map_err(ModelError::io(&path))
}

/// Whether `dir` has a configuration, and weights and a tokenizer in any supported format.
pub(super) fn is_convertible(dir: &Path) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| dir.join(name).is_file());
    any(&["config.json"])
        && any(&[WEIGHTS, INDEX, PICKLE, PICKLE_INDEX])
        && (any(&[TOKENIZER]) || any(&tokenizer_files::SOURCES))
}

fn weights(dir: &Path) -> Result<(), ModelError> {
    let shards = |index: &str| if dir.join(index).is_file() { shards(&dir.join(index)).map(Some) } else { Ok(None) };
    let sources = if let Some(shards) = shards(INDEX)? {
        merge(dir, &shards)?;
        shards
    } else if let Some(shards) = shards(PICKLE_INDEX)? {
        unpickle(&dir.join(WEIGHTS), &shards)?;
        shards
    } else if dir.join(PICKLE).is_file() {
        let only = vec![dir.join(PICKLE)];
        unpickle(&dir.join(WEIGHTS), &only)?;
        only
    } else {
        let tensor = format!("{WEIGHTS}, {INDEX} or {PICKLE}");
        return Err(ModelError::Convert { path: dir.to_owned(), reason: format!("expected {tensor}, found none") });
    };
    let indices = [INDEX, PICKLE_INDEX].map(|index| dir.join(index));
    for path in sources.into_iter().chain(indices.into_iter().filter(|index| index.is_file())) {
        fs::remove_file(&path).map_err(ModelError::io(&path))?;
    }
    Ok(())
}

/// The files that an index names, each once. They must be in the index's own folder.
pub(super) fn shards(index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = fs::read(index).map_err(ModelError::io(index))?;
    let json = |source| ModelError::Config { path: index.to_owned(), source };
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(json)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    let dir = index.parent().unwrap_or(Path::new("."));
    let convert = |reason| ModelError::Convert { path: index.to_owned(), reason };
    if names.is_empty() {
        return Err(convert("weight_map names no file".to_owned()));
    }
    let inside = |name: &String| {
        if Path::new(name).file_name() == Some(name.as_ref()) {
            Ok(dir.join(name))
        } else {
            Err(convert(format!("weight_map names {name:?}, which is no file of this folder")))
        }
    };
    names.iter().map(inside).collect()
}

/// Writes the tensors of all shards to one file. Of a tensor that is in several, the last counts, as for pickles.
fn merge(dir: &Path, shards: &[PathBuf]) -> Result<(), ModelError> {
    let mut maps = Vec::with_capacity(shards.len());
    for path in shards {
        let file = File::open(path).map_err(ModelError::io(path))?;
        maps.push((path, map(&file).map_err(ModelError::io(path))?));
    }
    let mut tensors = BTreeMap::new();
    for (path, map) in &maps {
        let shard = SafeTensors::deserialize(map);
        let shard = shard.map_err(|source| ModelError::Header { path: (*path).clone(), source })?;
        tensors.extend(shard.tensors());
    }
    let path = dir.join(WEIGHTS);
    let convert =
        |error: safetensors::SafeTensorError| ModelError::Convert { path: path.clone(), reason: error.to_string() };
    safetensors::serialize_to_file(tensors, None, &path).map_err(convert)?;
    atomic_file::restore_mode_and_sync(&path).map_err(ModelError::io(&path))
}

/// A file that `torch.save` wrote, in its current or its legacy format.
enum Pickle {
    Archive(PthTensors),
    Legacy(Legacy),
}

impl Pickle {
    fn open(path: &Path) -> Result<Self, ModelError> {
        let convert = |reason: String| ModelError::Convert { path: path.to_owned(), reason };
        let malformed = |_| convert("a tensor's arguments are malformed".to_owned());
        let file = File::open(path).map_err(ModelError::io(path))?;
        let map = map(&file).map_err(ModelError::io(path))?;
        // Candle's readers index a tensor's arguments without checking their number, so they may panic.
        if legacy::is_legacy(&map) {
            let read =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Legacy::open(map))).map_err(malformed)?;
            let from = |reason| convert(format!("saved by torch before 1.6: {reason}{}", legacy::advice(path)));
            return read.map(Self::Legacy).map_err(from);
        }
        if legacy::is_tar(&map) {
            return Err(convert(format!("a tar archive, saved by torch before 0.1.10{}", legacy::advice(path))));
        }
        if !map.starts_with(ARCHIVE) {
            return Err(convert(format!("no archive of torch.save{}", legacy::advice(path))));
        }
        pickle::check(path)?;
        let read = std::panic::catch_unwind(|| PthTensors::new(path, None)).map_err(malformed)?;
        read.map(Self::Archive).map_err(|error| convert(error.to_string()))
    }

    fn tensors(&self) -> &HashMap<String, TensorInfo> {
        match self {
            Self::Archive(archive) => archive.tensor_infos(),
            Self::Legacy(legacy) => legacy.tensors(),
        }
    }

    fn get(&self, name: &str, info: &TensorInfo) -> Result<Tensor, String> {
        match self {
            Self::Archive(archive) => match archive.get(name) {
                Ok(tensor) => tensor.ok_or_else(|| "it is listed but missing".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            Self::Legacy(legacy) => legacy.get(info),
        }
    }
}

/// Writes the float tensors of all pickles to the file `to`, in their own types.
///
/// # Errors
/// If a pickle is malformed, or has no float tensors.
pub(super) fn unpickle(to: &Path, pickles: &[PathBuf]) -> Result<(), ModelError> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for path in pickles {
        let convert = |reason: String| ModelError::Convert { path: path.clone(), reason };
        let bytes = fs::metadata(path).map_err(ModelError::io(path))?.len();
        let pickle = Pickle::open(path)?;
        let mut all = 0u64;
        for (name, info) in pickle.tensors() {
            // A pickle may claim any shape, but no tensor is larger than the file. A pickle may also give one storage many names,
            // each of which takes memory. `torch.save` does this for tied weights, but only about twice.
            let elements = info.layout.dims().iter().try_fold(1u64, |product, dim| product.checked_mul(*dim as u64));
            let size = elements.and_then(|elements| elements.checked_mul(info.dtype.size_in_bytes() as u64));
            if size.is_none_or(|size| size > bytes) {
                return Err(convert(format!(
                    "tensor {name} of shape {:?} is larger than the file",
                    info.layout.dims()
                )));
            }
            if !matches!(info.dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
                continue;
            }
            all = all.saturating_add(size.unwrap_or(u64::MAX));
            if all > bytes.saturating_mul(GROWTH) {
                return Err(convert(format!("its tensors take more than {GROWTH} times the file's size")));
            }
            let tensor = pickle.get(name, info).map_err(|error| convert(format!("tensor {name}: {error}")))?;
            tensors.insert(name.clone(), tensor);
        }
    }
    let convert = |error: candle_core::Error| ModelError::Convert { path: to.to_owned(), reason: error.to_string() };
    if tensors.is_empty() {
        return Err(ModelError::Convert { path: pickles[0].clone(), reason: "it has no float tensors".to_owned() });
    }
    candle_core::safetensors::save(&tensors, to).map_err(convert)?;
    atomic_file::restore_mode_and_sync(to).map_err(ModelError::io(to))
}
