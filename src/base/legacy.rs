//! What `torch.save` wrote before release 1.6 of torch: no archive, but pickles one after the other, and behind them the numbers.
//!
//! In order: a magic number, the protocol's version, facts of the machine, the object (its tensors name storages by keys), the list
//! of keys; then each key's storage, its length (8 bytes) before its elements.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::pickle::Scan;

/// The pickles of the magic number and of the protocol's version, 1001.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// Far above what a state dict without its numbers takes.
const LARGEST_PICKLE: usize = 16 << 20;

/// Classes of storages, and the bytes of an element.
const STORAGES: [(&str, usize); 10] = [
    ("FloatStorage", 4),
    ("DoubleStorage", 8),
    ("HalfStorage", 2),
    ("BFloat16Storage", 2),
    ("LongStorage", 8),
    ("IntStorage", 4),
    ("ShortStorage", 2),
    ("CharStorage", 1),
    ("ByteStorage", 1),
    ("BoolStorage", 1),
];

/// Whether a file that begins so is in this form.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// An opened file.
pub(super) struct Legacy {
    map: Mmap,
    /// By name; their paths are the keys of their storages.
    tensors: HashMap<String, TensorInfo>,
    /// Where the elements of each storage lie in the file.
    storages: HashMap<String, Range<usize>>,
}

impl Legacy {
    /// Reads the pickles of a file that [`is_legacy`].
    ///
    /// # Errors
    /// Why it is malformed.
    pub(super) fn open(map: Mmap) -> Result<Self, String> {
        let mut at = MAGIC.len();
        let machine = next(&map, &mut at, "the facts of the machine")?;
        if let Object::Dict(facts) = machine
            && facts.iter().any(|fact| *fact == (Object::Unicode("little_endian".to_owned()), Object::Bool(false)))
        {
            return Err("it was written by a big-endian machine".to_owned());
        }
        let Object::Dict(state) = next(&map, &mut at, "the state dict")? else {
            return Err("expected a state dict".to_owned());
        };
        let Object::List(keys) = next(&map, &mut at, "the list of storages")? else {
            return Err("expected a list of storages".to_owned());
        };
        let mut widths = HashMap::new();
        let mut tensors = HashMap::new();
        for (name, value) in state {
            let Some((key, width)) = storage(&value)? else { continue };
            if widths.insert(key.clone(), width).is_some_and(|before| before != width) {
                return Err(format!("storage {key} has two types"));
            }
            // A type that candle does not have is none of a weight.
            if let Ok(Some(mut tensor)) = value.into_tensor_info(name, Path::new("")) {
                tensor.path = key;
                tensors.insert(tensor.name.clone(), tensor);
            }
        }
        let mut storages = HashMap::new();
        for key in keys {
            let Object::Unicode(key) = key else { return Err("a storage's key is no text".to_owned()) };
            // What no tensor names: how large its elements are, nothing says.
            let width = widths.get(&key).ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
            let length = map.get(at..at + size_of::<u64>()).and_then(|bytes| bytes.try_into().ok());
            let length = u64::from_le_bytes(length.ok_or_else(|| format!("it ends before storage {key}"))?);
            at += size_of::<u64>();
            let end = usize::try_from(length).ok().and_then(|length| length.checked_mul(*width)?.checked_add(at));
            let end = end.filter(|&end| end <= map.len());
            let end = end.ok_or_else(|| format!("storage {key} of {length} elements does not lie in the file"))?;
            storages.insert(key, at..end);
            at = end;
        }
        Ok(Self { map, tensors, storages })
    }

    /// Its tensors, but for those of types that no weight has.
    pub(super) fn tensors(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
    }

    /// The tensor of `info`.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn get(&self, info: &TensorInfo) -> Result<Tensor, String> {
        let (layout, dtype) = (&info.layout, info.dtype);
        let storage = self.storages.get(&info.path).ok_or_else(|| format!("storage {} is not there", info.path))?;
        let turned = !layout.is_contiguous();
        if turned && !layout.is_fortran_contiguous() {
            return Err(format!("its elements lie apart, with strides {:?}", layout.stride()));
        }
        let elements = layout.dims().iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let size = elements.and_then(|elements| elements.checked_mul(dtype.size_in_bytes()));
        let start = storage.start.checked_add(layout.start_offset());
        let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        let range = range.filter(|range| range.end <= storage.end);
        let range = range.ok_or_else(|| format!("shape {:?} does not fit its storage", layout.dims()))?;
        let mut dims = layout.dims().to_vec();
        if turned {
            dims.reverse();
        }
        let read = || -> candle_core::Result<Tensor> {
            let tensor = Tensor::from_raw_buffer(&self.map[range], dtype, &dims, &Device::Cpu)?;
            match turned {
                true => tensor.permute((0..dims.len()).rev().collect::<Vec<_>>())?.contiguous(),
                false => Ok(tensor),
            }
        };
        read().map_err(|error| error.to_string())
    }
}

/// The object of the pickle at `at`, which moves behind it.
fn next(map: &Mmap, at: &mut usize, what: &str) -> Result<Object, String> {
    let told = |reason: String| format!("{what}: {reason}");
    let rest = map.get(*at..).unwrap_or_default();
    let length = Scan::new(&rest[..rest.len().min(LARGEST_PICKLE)]).run().map_err(told)?;
    // Once more, with a limit by the pickle's own length.
    let pickle = &rest[..length];
    Scan::new(pickle).run().map_err(told)?;
    *at += length;
    let mut stack = Stack::empty();
    stack.read_loop(&mut &pickle[..]).map_err(|error| told(error.to_string()))?;
    stack.finalize().map_err(|error| told(error.to_string()))
}

/// The key of a tensor's storage, and the bytes of an element; `None` for what is no tensor.
fn storage(value: &Object) -> Result<Option<(String, usize)>, String> {
    let Some(id) = persistent(value) else { return Ok(None) };
    let Object::Tuple(id) = id else { return Err("a storage is malformed".to_owned()) };
    let [Object::Unicode(kind), Object::Class { class_name, .. }, Object::Unicode(key), _, _, view] = &id[..] else {
        return Err("a storage is malformed".to_owned());
    };
    if kind != "storage" || *view != Object::None {
        return Err(format!("storage {key} is part of another one"));
    }
    let width = STORAGES.iter().find(|(name, _)| name == class_name).map(|(_, width)| *width);
    width.map(|width| Some((key.clone(), width))).ok_or_else(|| format!("storage {key} is a {class_name}"))
}

/// The storage in a call that rebuilds a tensor, or a parameter around one.
fn persistent(value: &Object) -> Option<&Object> {
    let Object::Reduce { args, .. } = value else { return None };
    let Object::Tuple(args) = &**args else { return None };
    match args.first()? {
        Object::PersistentLoad(id) => Some(id),
        inner @ Object::Reduce { .. } => persistent(inner),
        _ => None,
    }
}

/// Whether `bytes` begin a tar archive, which `torch.save` wrote before release 0.1.10.
pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// How to bring the file at `path` into a form that is read.
pub(super) fn advice(path: &Path) -> String {
    let name = PathBuf::from(path.file_name().unwrap_or_default());
    format!(
        "; load it with torch.load({name:?}, map_location=\"cpu\") and save its tensors with \
         safetensors.torch.save_file as model.safetensors"
    )
}
