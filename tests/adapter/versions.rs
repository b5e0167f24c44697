//! Configurations that older releases of PEFT wrote. `goldens/make_versions.py` ran these releases.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::Device;
use polyrank::adapter::{Adapter, AdapterError, read};
use serde_json::{Map, Value, json};
use tempfile::{TempDir, tempdir};

use super::{golden, layout};

/// The golden `plain` with another configuration.
fn plain_under(config: &Value) -> TempDir {
    let dir = tempdir().unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(golden("plain").join(weights), dir.path().join(weights)).unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    dir
}

fn read_plain(dir: &Path) -> Result<Adapter, AdapterError> {
    read(dir, &layout(), &Device::Cpu)
}

/// The log lines that are written while `f` runs.
fn logged(f: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, f);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_release_of_peft_gives_the_same_adapter() {
    let file = include_str!("../goldens/peft_versions.json");
    let versions: Map<String, Value> = serde_json::from_str(file).unwrap();
    let expected = read_plain(&golden("plain")).unwrap();
    let numbers = |adapter: &Adapter| -> Vec<(usize, u64, Vec<f32>, Vec<f32>)> {
        let floats = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let deltas = adapter.weights.sites.iter().enumerate();
        deltas
            .filter_map(|(site, delta)| {
                let delta = delta.as_ref()?.delta();
                Some((site, delta.scale.to_bits(), floats(&delta.a), floats(&delta.b)))
            })
            .collect()
    };
    // The first release wrote keys that no longer exist, and the last wrote three times as many keys as the second.
    assert!(versions["0.2.0"].get("merge_weights").is_some() && versions["0.3.0"].get("use_rslora").is_none());
    assert!(versions.len() >= 8 && versions["0.19.0"].as_object().unwrap().len() > 36);
    for (version, config) in &versions {
        let dir = plain_under(config);
        let mut found = None;
        let log = logged(|| found = Some(read_plain(dir.path()).unwrap()));
        let found = found.unwrap();
        assert_eq!(numbers(&found), numbers(&expected), "{version}");
        assert_eq!(
            found.weights.head.keys().collect::<Vec<_>>(),
            expected.weights.head.keys().collect::<Vec<_>>(),
            "{version}"
        );
        assert_eq!(log, "", "{version} wrote a key that is not known");
    }
}

#[test]
fn refuses_features_of_old_releases_that_are_on() {
    let file = include_str!("../goldens/peft_versions.json");
    let versions: Map<String, Value> = serde_json::from_str(file).unwrap();
    let mut config = versions["0.2.0"].clone();
    config["enable_lora"] = json!([true, false, true]);
    let dir = plain_under(&config);
    match read_plain(dir.path()) {
        Err(AdapterError::Unsupported { key, found, .. }) => {
            assert_eq!((&*key, &*found), ("enable_lora", "[true,false,true]"));
        }
        other => panic!("{other:?}"),
    }
    // `merge_weights` merged A and B into the base for computing, but saved them separately.
    config["enable_lora"] = json!(null);
    config["merge_weights"] = json!(true);
    assert!(read_plain(plain_under(&config).path()).is_ok());
}

#[test]
fn error_names_pickled_weights() {
    let dir = plain_under(&json!({"peft_type": "LORA"}));
    std::fs::rename(dir.path().join("adapter_model.safetensors"), dir.path().join("adapter_model.bin")).unwrap();
    match read_plain(dir.path()) {
        Err(AdapterError::Malformed { file, reason }) => {
            assert_eq!(file, dir.path().join("adapter_model.bin"));
            assert!(reason.contains("safe_serialization"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn warning_names_unknown_key() {
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(golden("plain").join("adapter_config.json")).unwrap()).unwrap();
    let warnings = |config: &Value| {
        let dir = plain_under(config);
        logged(|| assert!(read_plain(dir.path()).is_ok()))
    };
    assert_eq!(warnings(&config), "");
    config["a_key_of_the_future"] = json!({"x": 1});
    let log = warnings(&config);
    assert!(log.contains("WARN") && log.contains("a_key_of_the_future"), "{log}");
}
