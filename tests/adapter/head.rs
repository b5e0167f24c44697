//! Deltas of a linear of the head, which are added to the base's weight. `goldens/make_head_lora.py` made the adapters and PEFT's
//! answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use polyrank::adapter::{AdapterError, peek, read, write};
use polyrank::engine::{Engine, Error, Row};
use polyrank::params::Precision;
use polyrank::text::Limit;
use serde_json::Value;

use super::layout;
use crate::parity::worst;

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The answers of the adapter in `dir` to the texts of `golden`.
fn answers(engine: &Engine, dir: &Path, golden: &Value) -> Vec<Vec<f32>> {
    let adapter = Arc::new(engine.load_adapter(dir).unwrap());
    let row = |text: &Value| {
        let limit = Limit::TRUNCATE;
        let text = engine.encode(text["text"].as_str().unwrap(), text["text_pair"].as_str(), &limit).unwrap();
        Row { text, adapter: Arc::clone(&adapter) }
    };
    engine.logits(&golden["texts"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()).unwrap()
}

#[test]
fn pooler_with_a_delta_answers_like_peft() {
    let expected: Value = serde_json::from_slice(&std::fs::read(goldens("head_lora/expected.json")).unwrap()).unwrap();
    let mut adapters = 0;
    for (base, golden) in expected.as_object().unwrap() {
        let engines = [
            Engine::open(&goldens(base), &Device::Cpu).unwrap(),
            Engine::prepacked(&goldens(base), &Device::Cpu, Precision::F32, None).unwrap(),
        ];
        for (name, answer) in golden["adapters"].as_object().unwrap() {
            let dir = goldens("head_lora").join(name);
            let logits: Vec<Vec<f32>> = serde_json::from_value(answer["logits"].clone()).unwrap();
            for engine in &engines {
                for (found, expected) in answers(engine, &dir, golden).iter().zip(&logits) {
                    assert!(worst(found, expected) <= 1e-4, "{name}: {found:?} where PEFT has {expected:?}");
                }
            }
            // After it is written, the adapter has its own head, and gives the same answers.
            let (again, adapter) = (tempfile::tempdir().unwrap(), engines[0].load_adapter(&dir).unwrap());
            write(again.path(), engines[0].layout(), &adapter, &serde_json::Map::new()).unwrap();
            assert_eq!(answers(&engines[0], again.path(), golden), answers(&engines[0], &dir, golden), "{name}");
            assert_eq!(peek(&dir).unwrap().1.bytes(), adapter.bytes(), "{name}");
            adapters += 1;
        }
    }
    assert_eq!(adapters, 4);
}

/// The base is missing, the base lacks the linear, or one of the delta's tensors is missing.
#[test]
fn error_names_delta_that_cannot_be_added() {
    let dir = goldens("head_lora/bert-all");
    match read(&dir, &layout(), &Device::Cpu) {
        Err(AdapterError::Unsupported { key, found, .. }) => {
            assert_eq!((&*key, &*found), ("target_modules", "bert.pooler.dense"));
        }
        other => panic!("{other:?}"),
    }
    let missing = |base: &Path, adapter: &Path| {
        let engine = Engine::open(base, &Device::Cpu).unwrap();
        match engine.load_adapter(adapter) {
            Err(Error::Adapter(AdapterError::MissingTensor { tensor, .. })) => tensor,
            other => panic!("{other:?}"),
        }
    };
    let base = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(goldens("bert").join(name), base.path().join(name)).unwrap();
    }
    let mut tensors = candle_core::safetensors::load(goldens("bert/model.safetensors"), &Device::Cpu).unwrap();
    tensors.retain(|name, _| !name.contains("pooler"));
    candle_core::safetensors::save(&tensors, base.path().join("model.safetensors")).unwrap();
    assert_eq!(missing(base.path(), &dir), "base_model.model.bert.pooler.dense.weight");
    let adapter = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("adapter_config.json"), adapter.path().join("adapter_config.json")).unwrap();
    let mut tensors = candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    tensors.remove("base_model.model.bert.pooler.dense.lora_B.weight").unwrap();
    candle_core::safetensors::save(&tensors, adapter.path().join("adapter_model.safetensors")).unwrap();
    assert_eq!(missing(&goldens("bert"), adapter.path()), "base_model.model.bert.pooler.dense.lora_B.weight");
    // The linear is saved twice.
    let mut tensors = candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    for (name, shape) in [("weight", vec![32, 32]), ("bias", vec![32])] {
        let tensor = candle_core::Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        tensors.insert(format!("base_model.model.bert.pooler.dense.{name}"), tensor);
    }
    candle_core::safetensors::save(&tensors, adapter.path().join("adapter_model.safetensors")).unwrap();
    let error = Engine::open(&goldens("bert"), &Device::Cpu).unwrap().load_adapter(adapter.path()).unwrap_err();
    assert!(error.to_string().contains("bert.pooler.dense is saved both in full and as a delta"), "{error}");
}

/// Linears before the layers are neither sites nor part of the head. With a delta there, no layer could be shared.
#[test]
fn error_names_delta_of_a_projection_before_the_layers() {
    for (base, name) in [("electra", "electra.embeddings_project"), ("deberta-v2", "deberta.embeddings.embed_proj")] {
        let dir = tempfile::tempdir().unwrap();
        let source = goldens("encoders").join(base);
        let config = polyrank::base::BaseConfig::read(&source).unwrap();
        let mut adapter: Value =
            serde_json::from_slice(&std::fs::read(source.join("plain/adapter_config.json")).unwrap()).unwrap();
        adapter["target_modules"] = "all-linear".into();
        std::fs::write(dir.path().join("adapter_config.json"), adapter.to_string()).unwrap();
        let weights = "adapter_model.safetensors";
        std::fs::copy(source.join("plain").join(weights), dir.path().join(weights)).unwrap();
        match read(dir.path(), &polyrank::base::layout(&config).unwrap(), &Device::Cpu) {
            Err(AdapterError::Unsupported { key, found, .. }) => assert_eq!((&*key, &*found), ("target_modules", name)),
            other => panic!("{base}: {other:?}"),
        }
    }
}
