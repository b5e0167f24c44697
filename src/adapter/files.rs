//! Reads the three files of an adapter's folder as bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::AdapterError;

/// PEFT's configuration.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The tensors.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// The tensors as older releases of PEFT pickled them. This file is not read; the error names it.
const PICKLE: &str = "adapter_model.bin";
/// What PEFT does not store: the labels, the problem type, and facts about the base.
pub(super) const LABELS: &str = "config.json";

/// The largest JSON file that is read. PEFT writes a few kilobytes.
const LARGEST_JSON: u64 = 4 << 20;
/// The largest weights file that is read. Rank 64 on every linear of the largest encoder takes a tenth of it.
const LARGEST_WEIGHTS: u64 = 1 << 30;

/// The content of a file, and its path.
pub(crate) struct Bytes {
    pub(crate) file: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// An adapter's files.
pub(crate) struct Files {
    pub(crate) config: Bytes,
    pub(crate) weights: Bytes,
    /// PEFT does not write this file.
    pub(crate) labels: Option<Bytes>,
}

impl Files {
    pub(super) fn read(dir: &Path) -> Result<Self, AdapterError> {
        let config = read(dir.join(CONFIG), LARGEST_JSON)?;
        let weights = match read(dir.join(WEIGHTS), LARGEST_WEIGHTS) {
            Err(error) if error.is_not_found() && dir.join(PICKLE).is_file() => {
                let reason = format!("a pickle; save it with PEFT's safe_serialization=True, as {WEIGHTS}");
                return Err(AdapterError::malformed(&dir.join(PICKLE), reason));
            }
            weights => weights?,
        };
        let labels = match read(dir.join(LABELS), LARGEST_JSON) {
            Err(error) if error.is_not_found() => None,
            labels => Some(labels?),
        };
        Ok(Self { config, weights, labels })
    }
}

/// Reads a regular file of at most `largest` bytes. Devices and pipes are refused, because they could be endless.
fn read(file: PathBuf, largest: u64) -> Result<Bytes, AdapterError> {
    let metadata = std::fs::metadata(&file).map_err(AdapterError::io(&file))?;
    if !metadata.is_file() {
        return Err(AdapterError::malformed(&file, "not a regular file"));
    }
    let too_large =
        |found: u64| AdapterError::malformed(&file, format!("expected at most {largest} bytes, found {found}"));
    if metadata.len() > largest {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    let open = File::open(&file).map_err(AdapterError::io(&file))?;
    open.take(largest + 1).read_to_end(&mut bytes).map_err(AdapterError::io(&file))?;
    if bytes.len() as u64 > largest { Err(too_large(bytes.len() as u64)) } else { Ok(Bytes { file, bytes }) }
}
