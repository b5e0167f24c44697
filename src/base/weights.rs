//! A base's weights, memory-mapped and read in place.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorInfo};
use sha2::{Digest, Sha256};

use super::ModelError;
use super::architecture::{ARCHITECTURES, Architecture};
use super::digest::hex;
use crate::cuda::{DeviceMemory, memory_of};
use crate::params::{Backend, Data, Frozen, Prepacked};

/// The prepacked weights of a base, by their names in a classifier's checkpoint.
pub(crate) type Prepack = BTreeMap<String, Prepacked>;

/// A mapped `model.safetensors`.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    file: File,
    map: Arc<Mmap>,
    /// The tensors by canonical name.
    tensors: BTreeMap<String, TensorInfo>,
    /// The offset of the tensors' bytes in the file.
    start: usize,
    prepack: Prepack,
}

impl Weights {
    /// Maps the file at `path`, and reads only its header.
    ///
    /// # Errors
    /// If the file is missing, or its header is malformed or does not fit the file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let map = map(&file).map_err(ModelError::io(path))?;
        let header = |source| ModelError::Header { path: path.to_owned(), source };
        let (length, metadata) = SafeTensors::read_metadata(&map).map_err(header)?;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            if tensors.insert(canonical(&name), info.clone()).is_some() {
                return Err(ModelError::Duplicate { path: path.to_owned(), tensor: canonical(&name) });
            }
        }
        let start = size_of::<u64>() + length;
        Ok(Self { path: path.to_owned(), file, map: Arc::new(map), tensors, start, prepack: Prepack::new() })
    }

    /// The shape and the type of the tensor `name`, its name in a classifier's checkpoint, such as
    /// `bert.encoder.layer.0.output.dense.weight`. The file may leave out the prefix `bert.`, as bare encoders do, and may name a
    /// norm's parameters `gamma` and `beta`, as old files do.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(&canonical(name))
    }

    /// Attaches the prepacked form to the parameters that `prepack` contains.
    pub(super) fn set_prepack(&mut self, prepack: Prepack) {
        self.prepack = prepack;
    }

    /// Checks that the weights fit in the memory of `backend`'s device, if that is not the CPU's. It counts every tensor in the file,
    /// also the few that the encoder does not read.
    ///
    /// # Errors
    /// If they do not fit; the error has the numbers.
    pub fn check_room(&self, backend: &Backend) -> Result<(), ModelError> {
        let Some(DeviceMemory { free, total }) = memory_of(backend.device())? else { return Ok(()) };
        let needed = self.bytes_in(backend.dtype());
        if needed > free {
            let (path, dtype) = (self.path.clone(), backend.dtype().as_str());
            return Err(ModelError::DeviceMemory { path, needed, dtype, free, total });
        }
        Ok(())
    }

    /// The bytes of all tensors in `dtype`.
    fn bytes_in(&self, dtype: DType) -> usize {
        let elements: usize = self.tensors.values().map(|info| info.shape.iter().product::<usize>()).sum();
        elements * dtype.size_in_bytes()
    }

    /// The file's path and its [`state`].
    pub(super) fn identity(&self) -> Option<String> {
        let (path, metadata) = (self.path.canonicalize().ok()?, self.file.metadata().ok()?);
        Some(format!("{}\n{}", path.display(), state(&metadata)?))
    }

    /// The SHA-256 of those of the tensors `names` that exist.
    pub(super) fn digest<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        let mut hash = Sha256::new();
        for name in names {
            if let Some(info) = self.find(name) {
                self.hash(&mut hash, &self.map, (&canonical(name), info));
            }
        }
        hex(&hash.finalize())
    }

    fn hash(&self, hash: &mut Sha256, map: &Mmap, (name, info): (&str, &TensorInfo)) {
        hash.update(format!("{name} {} {:?}\n", info.dtype, info.shape));
        hash.update(&map[self.range(info)]);
    }

    /// Whether the file holds the tensor `name`, as [`find`](Self::find) reads names.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The parameter `name` with this shape. f32 elements stay mapped; other types are converted once.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape, or has a type that is not a float.
    pub fn parameter(&self, name: &str, shape: &[usize]) -> Result<Frozen, ModelError> {
        let (path, tensor) = (|| self.path.clone(), || name.to_owned());
        let info = self.find(name).ok_or_else(|| ModelError::MissingTensor { path: path(), tensor: tensor() })?;
        if info.shape != shape {
            let (expected, found) = (shape.to_vec(), info.shape.clone());
            return Err(ModelError::Shape { path: path(), tensor: tensor(), expected, found });
        }
        let range = self.range(info);
        let bytes = &self.map[range.clone()];
        let data = match info.dtype {
            Dtype::F32 if cfg!(target_endian = "little") && bytes.as_ptr().cast::<f32>().is_aligned() => {
                Data::mapped(Arc::clone(&self.map), range)
            }
            Dtype::F32 => Data::Owned(convert(bytes, f32::from_le_bytes)),
            Dtype::F64 => Data::Owned(convert(bytes, |b| f64::from_le_bytes(b) as f32)),
            Dtype::F16 => Data::Owned(convert(bytes, |b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => Data::Owned(convert(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            dtype => return Err(ModelError::Dtype { path: path(), tensor: tensor(), found: dtype.to_string() }),
        };
        let prepacked = self.prepack.get(name).cloned();
        Ok(Frozen::new(name, shape, data).with_prepacked(prepacked))
    }

    /// The tensor's byte range in the file. [`SafeTensors::read_metadata`] has checked that it lies inside.
    fn range(&self, info: &TensorInfo) -> Range<usize> {
        self.start + info.data_offsets.0..self.start + info.data_offsets.1
    }

    /// The SHA-256 of the encoder's float tensors in order of name, with the name, type, shape and bytes of each. It leaves out
    /// what differs between copies of one encoder: the prefix, old names of norms, heads, integer buffers, and the file's order and
    /// metadata.
    pub(super) fn fingerprint(&self) -> String {
        let encoder = |name: &str| ENCODER.iter().any(|part| name.starts_with(part));
        let float = |dtype| matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
        // Uses a mapping of its own, so that the pages of the word table, of which texts need few, do not stay in memory.
        let passing = map(&self.file);
        let map = passing.as_ref().unwrap_or(&self.map);
        let mut hash = Sha256::new();
        for (name, info) in self.tensors.iter().filter(|(name, info)| encoder(name) && float(info.dtype)) {
            self.hash(&mut hash, map, (name, info));
        }
        format!("{FINGERPRINT}{}", hex(&hash.finalize()))
    }
}

/// The prefix of fingerprints.
const FINGERPRINT: &str = "sha256:";

pub(super) fn is_fingerprint(text: &str) -> bool {
    let digits = text.strip_prefix(FINGERPRINT).unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// A string that changes when the file's contents change: its size and modification time and, on Unix, its device, inode and change
/// time. A copy can restore the modification time, but not the change time.
pub(super) fn state(metadata: &Metadata) -> Option<String> {
    let written = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let state = format!("{} {}", metadata.len(), written.as_nanos());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (file, changed) = ((metadata.dev(), metadata.ino()), (metadata.ctime(), metadata.ctime_nsec()));
        Some(format!("{state} {file:?} {changed:?}"))
    }
    #[cfg(not(unix))]
    Some(state)
}

pub(super) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: a mapped file must be neither changed nor truncated. The files that this crate writes, bases and prepacked weights,
    // appear complete, by a rename, and are never written again. For a folder that a user provides, the README asks the user not to
    // change it.
    unsafe { Mmap::map(file) }
}

/// The prefixes of names in bare encoders. Poolers and heads, which differ between copies, have others.
const ENCODER: [&str; 6] = ["embeddings.", "embeddings_project.", "encoder.", "transformer.", "layers.", "final_norm."];

/// The tensor's current name in a bare encoder.
fn canonical(name: &str) -> String {
    let bare = |known: &Architecture| name.strip_prefix(known.prefix())?.strip_prefix('.');
    let name = ARCHITECTURES.iter().find_map(bare).unwrap_or(name);
    match name.rsplit_once('.') {
        Some((module, "gamma")) => format!("{module}.weight"),
        Some((module, "beta")) => format!("{module}.bias"),
        _ => name.to_owned(),
    }
}

fn convert<const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> f32) -> Arc<[f32]> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| element(*bytes)).collect()
}
