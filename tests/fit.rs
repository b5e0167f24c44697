//! Whether an adapter fits its base: one of them must have a pooler, and the fingerprint must be that of the base.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use polyrank::adapter::{Adapter, AdapterError};
use polyrank::base::Sources;
use polyrank::engine::{Engine, Error, Row};
use polyrank::text::Limit;
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A copy of the files of a golden folder.
fn copy(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

fn rewrite(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => json!({}),
    };
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Removes the tensors for which `taken` is true from a safetensors file, and returns them.
fn take(path: &Path, taken: impl Fn(&str) -> bool) -> Vec<(String, Tensor)> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let (out, left): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| taken(name));
    candle_core::safetensors::save(&left.into_iter().collect(), path).unwrap();
    out
}

fn open(dir: &Path) -> Engine {
    Engine::open(dir, &Device::Cpu).unwrap()
}

fn answer(engine: &Engine, adapter: Adapter) -> Vec<f32> {
    let limit = Limit::TRUNCATE;
    let text = engine.encode("the plot was not very good", None, &limit).unwrap();
    engine.logits(&[Row { text, adapter: Arc::new(adapter) }]).unwrap().remove(0)
}

#[track_caller]
fn lacks(engine: &Engine, adapter: &Path, expected: &str) {
    match engine.load_adapter(adapter) {
        Err(Error::Adapter(AdapterError::MissingTensor { file, tensor })) => {
            assert_eq!((file, &*tensor), (adapter.join("adapter_model.safetensors"), expected));
        }
        other => panic!("{other:?}"),
    }
}

/// PEFT does not save DeBERTa's pooler by default, and no base on the hub has one.
#[test]
fn refuses_deberta_without_pooler_in_adapter_or_base() {
    let (base, adapter) = (copy("encoders/deberta"), copy("encoders/deberta/plain"));
    let whole = open(base.path());
    let expected = answer(&whole, whole.load_adapter(adapter.path()).unwrap());
    let pooler = take(&adapter.path().join("adapter_model.safetensors"), |name| name.contains("pooler"));
    rewrite(&adapter.path().join("adapter_config.json"), |config| config["modules_to_save"] = json!(["classifier"]));
    assert_eq!(pooler.len(), 2);
    lacks(&whole, adapter.path(), "base_model.model.pooler.dense.weight");
    // It is accepted on a base that has a pooler.
    let weights = base.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    tensors.extend(pooler.into_iter().map(|(name, tensor)| (name.replace("base_model.model.", ""), tensor)));
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let pooled = open(base.path());
    let found = answer(&pooled, pooled.load_adapter(adapter.path()).unwrap());
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, expected {expected:?}");
}

#[test]
fn bert_without_pooler_uses_the_adapters() {
    let (base, adapter) = (copy("bert"), golden("bert/pooler"));
    let whole = open(&golden("bert"));
    let expected = answer(&whole, whole.load_adapter(&adapter).unwrap());
    assert_eq!(take(&base.path().join("model.safetensors"), |name| name.contains("pooler")).len(), 2);
    let bare = open(base.path());
    lacks(&bare, &golden("bert/plain"), "base_model.model.bert.pooler.dense.weight");
    assert_eq!(answer(&bare, bare.load_adapter(&adapter).unwrap()), expected);
}

#[test]
fn only_the_fingerprint_decides_whether_the_base_is_wrong() {
    let (engine, adapter) = (open(&golden("bert")), copy("bert/plain"));
    // A file from PEFT has no fingerprint, and the name of its base is not compared.
    rewrite(&adapter.path().join("adapter_config.json"), |config| {
        config["base_model_name_or_path"] = json!("some/other")
    });
    engine.load_adapter(adapter.path()).unwrap();
    let labels = adapter.path().join("config.json");
    rewrite(&labels, |config| config["polyrank"] = json!({"base_fingerprint": engine.base_fingerprint()}));
    engine.load_adapter(adapter.path()).unwrap();
    rewrite(&labels, |config| config["polyrank"] = json!({"base_fingerprint": "sha256:12"}));
    match engine.load_adapter(adapter.path()) {
        Err(Error::Adapter(error)) => {
            // The error names both bases.
            let text = error.to_string();
            assert!(text.contains("some/other (sha256:12)") && text.contains("on bert (sha256:"), "{text}");
            let AdapterError::WrongBase { file, expected, found, .. } = error else { panic!("{text}") };
            assert_eq!((file, &*expected, &*found), (labels, "sha256:12", engine.base_fingerprint()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn converted_base_keeps_the_fingerprint_of_its_source() {
    let (home, source) = (TempDir::new().unwrap(), copy("legacy/deberta"));
    std::fs::remove_file(source.path().join("pytorch_model.bin")).unwrap();
    std::fs::copy(golden("legacy/deberta.safetensors"), source.path().join("model.safetensors")).unwrap();
    let sources = Sources {
        home: home.path().to_owned(),
        endpoint: "http://127.0.0.1:9".to_owned(),
        token: None,
        offline: true,
        pip: None,
    };
    let fingerprint = |dir: &Path| {
        let dir = sources.ensure(dir.to_str().unwrap(), &()).unwrap();
        open(&dir).base_fingerprint().to_owned()
    };
    assert_eq!(fingerprint(&golden("legacy/deberta")), fingerprint(source.path()));
}
