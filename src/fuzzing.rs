//! Entry points for the fuzz targets (`fuzz/`, built with `--cfg fuzzing`): parsers of untrusted bytes that are private otherwise. For
//! any bytes, each must return: it must not panic, hang, or take memory out of proportion to the bytes.

use std::path::Path;

use serde_json::Value;

use crate::adapter::{Bytes, Files, parse};
use crate::base::{BaseConfig, convert};
use crate::params::{Backend, Layout};

/// Parses an adapter's three files, for a base of `layout`.
pub fn adapter(layout: &Layout, config: &[u8], weights: &[u8], labels: Option<&[u8]>) {
    let file = |name: &str, bytes: &[u8]| Bytes { file: name.into(), bytes: bytes.into() };
    let files = Files {
        config: file("adapter_config.json", config),
        weights: file("adapter_model.safetensors", weights),
        labels: labels.map(|labels| file("config.json", labels)),
    };
    let _ = parse(&files, layout, None, &Backend::cpu());
}

/// Parses a base's `config.json` and makes the layout of its architecture.
pub fn base_config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(config) = BaseConfig::parse(Path::new("config.json"), value) {
        let _ = (config.longest_text(), (config.architecture().layout)(&config));
    }
}

/// Converts a base in an older format in place, in the folder `dir`.
pub fn convert(dir: &Path) {
    let _ = convert::complete(dir);
}

/// Parses the body of a route that classifies, in each of the shapes.
#[cfg(feature = "server")]
pub fn request(body: &[u8]) {
    crate::server::parse_request(body);
}
