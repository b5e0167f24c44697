//! Entry points for the fuzz targets (`fuzz/`, built with `--cfg fuzzing`) and for a test that calls each once: parsers of untrusted bytes that are private otherwise. For
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Text that looks a little like what is parsed.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"inputs\"",
            "\"r\"",
            "\"a\"",
            "1",
            "-1e99",
            "null",
        ]);
        let text = prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat().into_bytes());
        prop_oneof![text, prop::collection::vec(any::<u8>(), 0..64)]
    }

    fn layout() -> Layout {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert/config.json");
        let config = serde_json::from_slice(&std::fs::read(&golden).unwrap()).unwrap();
        let config = BaseConfig::parse(&golden, config).unwrap();
        (config.architecture().layout)(&config).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn entry_points_return(first in bytes(), second in bytes()) {
            adapter(&layout(), &first, &second, Some(&first));
            base_config(&first);
            #[cfg(feature = "server")]
            request(&first);
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), json!({"model_type": "bert"}).to_string()).unwrap();
            std::fs::write(folder.path().join("pytorch_model.bin"), &second).unwrap();
            convert(folder.path());
        }
    }
}
