//! Doors for the fuzz targets (`fuzz/`, built with `--cfg fuzzing`): readers of outside bytes that are private otherwise. Each
//! must return, whatever the bytes: no panic, no hang, no memory out of proportion to them.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use crate::adapter::{Bytes, Files, parse};
use crate::base::{BaseConfig, convert};
use crate::params::Layout;

/// An adapter's three files, for a base of `layout`.
pub fn adapter(layout: &Layout, config: &[u8], weights: &[u8], labels: Option<&[u8]>) {
    let file = |name: &str, bytes: &[u8]| Bytes { file: name.into(), bytes: bytes.into() };
    let files = Files {
        config: file("adapter_config.json", config),
        weights: file("adapter_model.safetensors", weights),
        labels: labels.map(|labels| file("config.json", labels)),
    };
    let _ = parse(&files, layout, None, &Device::Cpu);
}

/// A base's `config.json`, down to the layout of its architecture.
pub fn base_config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(config) = BaseConfig::parse(Path::new("config.json"), value) {
        let _ = (config.longest_text(), (config.architecture().layout)(&config));
    }
}

/// Older forms of a base in the folder `dir`, converted in place.
pub fn convert(dir: &Path) {
    let _ = convert::complete(dir);
}

/// The body of `POST /classify/{adapter}`.
#[cfg(feature = "server")]
pub fn request(body: &[u8]) {
    crate::server::parse_request(body);
}
