//! Reads the three files of an adapter's folder as bytes.

use std::fs::{File, Metadata};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata as Header;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::AdapterError;

/// PEFT's configuration.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The tensors.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// The tensors as older releases of PEFT pickled them. This file is not read; the error names it.
const PICKLE: &str = "adapter_model.bin";
/// What PEFT does not store: the labels, the problem type, and facts about the base.
pub(super) const LABELS: &str = "config.json";

/// The prefix of every tensor's name in PEFT's files.
pub(super) const PREFIX: &str = "base_model.model.";

/// The names of an adapter's files: the configuration, the tensors, and the labels, which PEFT does not write.
pub const NAMES: [&str; 3] = [CONFIG, WEIGHTS, LABELS];

/// The largest JSON file that is read. PEFT writes a few kilobytes.
const LARGEST_JSON: u64 = 4 << 20;
/// The largest weights file that is read. Rank 64 on every linear of the largest encoder takes a tenth of it.
const LARGEST_WEIGHTS: u64 = 1 << 30;
/// The largest header of a safetensors file. One of every linear of 1,024 layers takes a quarter of it.
const LARGEST_HEADER: u64 = 8 << 20;

/// The content of a file, and its path.
pub(crate) struct Bytes {
    pub(crate) file: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// The content of an adapter's files.
pub struct Files {
    pub(crate) config: Bytes,
    pub(crate) weights: Bytes,
    /// PEFT does not write this file.
    pub(crate) labels: Option<Bytes>,
}

impl Files {
    /// Reads the files in the folder `dir`. All of them are opened before any is read.
    ///
    /// # Errors
    /// A file is missing (except `config.json`), too large, not a regular file, or cannot be read.
    pub fn read(dir: &Path) -> Result<Self, AdapterError> {
        OpenFiles::open(dir)?.read()
    }

    /// The content of `adapter_config.json`.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config.bytes
    }

    /// The content of `adapter_model.safetensors`.
    #[must_use]
    pub fn weights(&self) -> &[u8] {
        &self.weights.bytes
    }

    /// The content of `config.json`, if there is one.
    #[must_use]
    pub fn labels(&self) -> Option<&[u8]> {
        self.labels.as_ref().map(|labels| &*labels.bytes)
    }

    /// The path of the weights file, for the errors of a registry's source.
    #[must_use]
    pub fn weights_path(&self) -> &Path {
        &self.weights.file
    }

    /// The SHA-256 digest of the three files. It identifies a version of an adapter.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for bytes in [Some(self.config()), Some(self.weights()), self.labels()] {
            // With its length, the end of a file cannot be taken for the start of the next one.
            let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            digest.update(length.to_le_bytes());
            digest.update(bytes.unwrap_or_default());
        }
        digest.finalize().into()
    }

    /// Whether a file ends too early, as while it is being copied.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        let json = [Some(self.config()), self.labels()];
        let cut = |bytes: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_err_and(|e| e.is_eof());
        json.into_iter().flatten().any(cut) || are_cut_short(self.weights())
    }
}

/// Whether the weights file `bytes` is shorter than its own header says.
fn are_cut_short(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        data_offsets: [u64; 2],
    }
    let Some((length, rest)) = bytes.split_first_chunk() else { return true };
    let length = u64::from_le_bytes(*length);
    if length > LARGEST_HEADER {
        return false;
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else { return true };
    let Ok(entries) = serde_json::from_slice::<std::collections::HashMap<String, Entry>>(header) else { return false };
    entries.values().any(|entry| entry.data_offsets[1] > data.len() as u64)
}

/// Refuses the names of a weights file if some of them are names of LoRA's tensors in a model's `state_dict()`: without [`PREFIX`], or with
/// an adapter's name, as in `lora_A.default.weight`.
pub(super) fn refuse_state_dict<'a>(file: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<(), AdapterError> {
    let is_other = |name: &&str| {
        let parameter = [".lora_A.", ".lora_B."].iter().find_map(|part| name.split_once(part)).map(|(_, rest)| rest);
        parameter.is_some_and(|parameter| !name.starts_with(PREFIX) || parameter.contains('.'))
    };
    match names.into_iter().filter(is_other).min() {
        Some(tensor) => Err(AdapterError::StateDict { file: file.to_owned(), tensor: tensor.to_owned() }),
        None => Ok(()),
    }
}

/// An adapter's files, opened. A folder that is replaced by a rename afterwards does not change what they hold.
pub struct OpenFiles {
    config: OpenFile,
    weights: OpenFile,
    labels: Option<OpenFile>,
}

impl OpenFiles {
    /// Opens the files in the folder `dir`.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub fn open(dir: &Path) -> Result<Self, AdapterError> {
        let config = OpenFile::open(dir.join(CONFIG), LARGEST_JSON)?;
        let weights = match OpenFile::open(dir.join(WEIGHTS), LARGEST_WEIGHTS) {
            Err(error) if error.is_not_found() && dir.join(PICKLE).is_file() => {
                let reason = format!(
                    "a pickle; `polyrank pull --adapter` converts one of the hub, and PEFT's safe_serialization=True saves {WEIGHTS}"
                );
                return Err(AdapterError::malformed(&dir.join(PICKLE), reason));
            }
            weights => weights?,
        };
        let labels = match OpenFile::open(dir.join(LABELS), LARGEST_JSON) {
            Err(error) if error.is_not_found() => None,
            labels => Some(labels?),
        };
        Ok(Self { config, weights, labels })
    }

    /// What the system says about the opened files, in the order of [`NAMES`].
    #[must_use]
    pub fn metadata(&self) -> [Option<&Metadata>; 3] {
        [Some(&self.config.metadata), Some(&self.weights.metadata), self.labels.as_ref().map(|labels| &labels.metadata)]
    }

    /// The size of the weights file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.weights.metadata.len()
    }

    /// The number of elements of all tensors, from the header of the weights file.
    ///
    /// # Errors
    /// The header is malformed, the file is longer than it says, or a tensor has a name that no adapter has.
    pub fn elements(&self) -> Result<usize, AdapterError> {
        let Bytes { file, bytes } = self.weights.read_header()?;
        let header: Header = serde_json::from_slice(&bytes).map_err(|error| AdapterError::malformed(&file, error))?;
        let expected = (size_of::<u64>() + bytes.len()).saturating_add(header.data_len()) as u64;
        let found = self.size();
        if found > expected {
            return Err(AdapterError::malformed(
                &file,
                format!("expected {expected} bytes, as its header says, found {found}"),
            ));
        }
        let tensors = header.tensors();
        refuse_state_dict(&file, tensors.keys().map(String::as_str))?;
        if let Some(name) = tensors.keys().find(|name| !name.starts_with(PREFIX)) {
            let reason = format!("expected tensors of an adapter, which begin with {PREFIX}, found {name}");
            return Err(AdapterError::malformed(&file, reason));
        }
        Ok(tensors.values().map(|tensor| tensor.shape.iter().product::<usize>()).sum())
    }

    /// Reads the files to their ends.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub fn read(self) -> Result<Files, AdapterError> {
        let labels = self.labels.map(OpenFile::read).transpose()?;
        Ok(Files { config: self.config.read()?, weights: self.weights.read()?, labels })
    }

    /// Reads all but the tensors' values.
    pub(super) fn heads(self) -> Result<Heads, AdapterError> {
        Ok(Heads {
            size: self.size(),
            header: self.weights.read_header()?,
            config: self.config.read()?,
            labels: self.labels.map(OpenFile::read).transpose()?,
        })
    }
}

/// What an adapter's files hold, without the tensors' values.
pub(super) struct Heads {
    /// The header of the weights file: the names and shapes of the tensors.
    pub(super) header: Bytes,
    /// The size of the weights file in bytes.
    pub(super) size: u64,
    /// The content of `adapter_config.json`.
    pub(super) config: Bytes,
    /// The content of `config.json`, if there is one.
    pub(super) labels: Option<Bytes>,
}

/// An open regular file of at most `largest` bytes.
struct OpenFile {
    file: PathBuf,
    open: File,
    metadata: Metadata,
    largest: u64,
}

impl OpenFile {
    /// Devices and pipes are refused, because they could be endless; opening a pipe could also block.
    fn open(file: PathBuf, largest: u64) -> Result<Self, AdapterError> {
        let regular = |metadata: Metadata| {
            if metadata.is_file() { Ok(metadata) } else { Err(AdapterError::malformed(&file, "not a regular file")) }
        };
        regular(std::fs::metadata(&file).map_err(AdapterError::io(&file))?)?;
        let open = File::open(&file).map_err(AdapterError::io(&file))?;
        let metadata = regular(open.metadata().map_err(AdapterError::io(&file))?)?;
        let opened = Self { file, open, metadata, largest };
        opened.allow(opened.metadata.len())?;
        Ok(opened)
    }

    /// Refuses a size above the limit.
    fn allow(&self, found: u64) -> Result<(), AdapterError> {
        let largest = self.largest;
        if found > largest {
            let reason = format!("expected at most {largest} bytes, found {found}");
            return Err(AdapterError::malformed(&self.file, reason));
        }
        Ok(())
    }

    fn read(self) -> Result<Bytes, AdapterError> {
        (&self.open).rewind().map_err(AdapterError::io(&self.file))?;
        let mut bytes = Vec::with_capacity(self.metadata.len() as usize);
        (&self.open).take(self.largest + 1).read_to_end(&mut bytes).map_err(AdapterError::io(&self.file))?;
        self.allow(bytes.len() as u64)?;
        Ok(Bytes { file: self.file, bytes })
    }

    /// The JSON header of a safetensors file.
    fn read_header(&self) -> Result<Bytes, AdapterError> {
        (&self.open).rewind().map_err(AdapterError::io(&self.file))?;
        let mut length = [0; 8];
        (&self.open).read_exact(&mut length).map_err(AdapterError::io(&self.file))?;
        let length = u64::from_le_bytes(length);
        // The shortest header is `{}`.
        if !(2..=LARGEST_HEADER.min(self.metadata.len())).contains(&length) {
            return Err(AdapterError::malformed(
                &self.file,
                format!("not a safetensors file: a header of {length} bytes"),
            ));
        }
        let mut bytes = vec![0; length as usize];
        (&self.open).read_exact(&mut bytes).map_err(AdapterError::io(&self.file))?;
        Ok(Bytes { file: self.file.clone(), bytes })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use serde_json::json;

    use super::*;

    /// Nothing but the header is needed, and it is checked against the file's size.
    #[test]
    fn the_header_tells_the_elements_of_a_file_that_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        let head = |prefix: &str| {
            let tensors = [
                ("a", json!({"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]})),
                ("b", json!({"dtype": "BF16", "shape": [5], "data_offsets": [24, 34]})),
            ];
            let header: serde_json::Map<_, _> =
                tensors.map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).into_iter().collect();
            let header = serde_json::to_vec(&header).unwrap();
            [&(header.len() as u64).to_le_bytes()[..], &header].concat()
        };
        let (model, state_dict, head) = (head("bert."), head("bert.query.lora_A."), head(PREFIX));
        let elements = |bytes: &[u8], length: u64| {
            fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
            File::options().write(true).open(dir.path().join(WEIGHTS)).unwrap().set_len(length).unwrap();
            let open = OpenFiles::open(dir.path()).unwrap();
            let found = open.elements().map_err(|error| error.to_string());
            // It is still read from its beginning.
            assert_eq!(open.read().unwrap().weights().get(..8), Some(&bytes[..8]));
            found
        };
        let whole = head.len() as u64 + 34;
        assert_eq!(elements(&head, whole), Ok(11));
        // One that is still being copied has a smaller size for now.
        assert_eq!(elements(&head, whole - 1), Ok(11));
        let error = elements(&head, whole + 1).unwrap_err();
        assert!(error.contains(&format!("expected {whole} bytes, as its header says, found {}", whole + 1)), "{error}");
        let error = elements(&model, model.len() as u64 + 34).unwrap_err();
        assert!(
            error.contains("expected tensors of an adapter, which begin with base_model.model., found bert."),
            "{error}"
        );
        let error = elements(&state_dict, state_dict.len() as u64 + 34).unwrap_err();
        assert!(error.contains("save the adapter with save_pretrained"), "{error}");
        let error = elements(&[0; 8], 20 << 20).unwrap_err();
        assert!(error.contains("not a safetensors file: a header of 0 bytes"), "{error}");
    }
}
