//! Reads the format that `torch.save` wrote before torch 1.6: not an archive, but several pickles, followed by the tensors'
//! elements.
//!
//! The file consists of a magic number, the protocol's version, facts about the machine, the object (whose tensors name storages by
//! keys), the list of keys, and then for each key its storage: the number of elements (8 bytes) and the elements.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{Device, Tensor};
use memmap2::Mmap;

use super::pickle::Scan;

/// The pickles of the magic number and of the protocol's version, 1001.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// An upper bound of a pickle's size, far above that of a state dict without its elements.
const LARGEST_PICKLE: usize = 16 << 20;

/// The classes of storages, and the bytes of one element.
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

/// Whether a file that begins with `bytes` has this format.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// An opened file.
pub(super) struct Legacy {
    map: Mmap,
    /// The tensors by name. Their `path` is the key of their storage.
    tensors: HashMap<String, TensorInfo>,
    /// The byte range of each storage's elements in the file.
    storages: HashMap<String, Range<usize>>,
}

impl Legacy {
    /// Reads the pickles of a file for which [`is_legacy`] is true.
    ///
    /// # Errors
    /// The reason why the file is malformed.
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
            // A type that candle does not have is not a weight's type.
            if let Ok(Some(mut tensor)) = value.into_tensor_info(name, Path::new("")) {
                tensor.path = key;
                tensors.insert(tensor.name.clone(), tensor);
            }
        }
        let mut storages = HashMap::new();
        for key in keys {
            let Object::Unicode(key) = key else { return Err("a storage's key is not a string".to_owned()) };
            // The element size of a storage that no tensor names is unknown.
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

    /// The tensors, except those of types that a weight cannot have.
    pub(super) fn tensors(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
    }

    /// Reads the tensor of `info`.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub(super) fn get(&self, info: &TensorInfo) -> Result<Tensor, String> {
        let (layout, dtype) = (&info.layout, info.dtype);
        let storage = self.storages.get(&info.path).ok_or_else(|| format!("storage {} is missing", info.path))?;
        let transposed = !layout.is_contiguous();
        if transposed && !layout.is_fortran_contiguous() {
            return Err(format!("its elements are not contiguous: strides {:?}", layout.stride()));
        }
        let elements = layout.dims().iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let size = elements.and_then(|elements| elements.checked_mul(dtype.size_in_bytes()));
        let start = storage.start.checked_add(layout.start_offset());
        let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        let range = range.filter(|range| range.end <= storage.end);
        let range = range.ok_or_else(|| format!("shape {:?} does not fit its storage", layout.dims()))?;
        let mut dims = layout.dims().to_vec();
        if transposed {
            dims.reverse();
        }
        let read = || -> candle_core::Result<Tensor> {
            let tensor = Tensor::from_raw_buffer(&self.map[range], dtype, &dims, &Device::Cpu)?;
            if transposed {
                tensor.permute((0..dims.len()).rev().collect::<Vec<_>>())?.contiguous()
            } else {
                Ok(tensor)
            }
        };
        read().map_err(|error| error.to_string())
    }
}

/// Reads the object of the pickle at `at`, and moves `at` past it.
fn next(map: &Mmap, at: &mut usize, what: &str) -> Result<Object, String> {
    let explained = |reason: String| format!("{what}: {reason}");
    let rest = map.get(*at..).unwrap_or_default();
    let length = Scan::new(&rest[..rest.len().min(LARGEST_PICKLE)]).run().map_err(explained)?;
    // Scanned again, because the limit depends on the pickle's own length.
    let pickle = &rest[..length];
    Scan::new(pickle).run().map_err(explained)?;
    *at += length;
    let mut stack = Stack::empty();
    stack.read_loop(&mut &pickle[..]).map_err(|error| explained(error.to_string()))?;
    stack.finalize().map_err(|error| explained(error.to_string()))
}

/// The key of a tensor's storage and the bytes of one element; `None` if `value` is not a tensor.
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

/// The storage in a call that rebuilds a tensor, or a parameter around a tensor.
fn persistent(value: &Object) -> Option<&Object> {
    let Object::Reduce { args, .. } = value else { return None };
    let Object::Tuple(args) = &**args else { return None };
    match args.first()? {
        Object::PersistentLoad(id) => Some(id),
        inner @ Object::Reduce { .. } => persistent(inner),
        _ => None,
    }
}

/// Whether a file that begins with `bytes` is a tar archive, the format of `torch.save` before torch 0.1.10.
pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// Advice on how to convert the file at `path` by hand.
pub(super) fn advice(path: &Path) -> String {
    let name = PathBuf::from(path.file_name().unwrap_or_default());
    format!(
        "; load it with torch.load({name:?}, map_location=\"cpu\") and save its tensors with \
         safetensors.torch.save_file as model.safetensors"
    )
}
