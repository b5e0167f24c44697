//! Tests an engine whose passes run as on a GPU, with its kernels compiled for the CPU, or on the GPU that the environment names.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::*;

const BASES: [&str; 4] = ["bert", "encoders/mpnet", "encoders/deberta", "encoders/modernbert"];

fn folder(base: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(base)
}

/// The device that the environment names, else a GPU's form on the CPU.
fn cuda() -> Backend {
    if let Some(device) = cuda::test_device() {
        return Backend::native(device);
    }
    cuda::run_on_host(polyrank_on_host::launch);
    Backend::cuda_on_host()
}

/// Every text for every adapter of `base`, so that texts are shared and adapters are neighbours, and a text without tokens.
fn rows(engine: &Engine, base: &str) -> Vec<Row> {
    let limit = Limit::TRUNCATE;
    let mut texts = ["the film was great", "great", "the plot was boring and the film was long"]
        .map(|text| engine.encode(text, None, &limit).unwrap())
        .to_vec();
    texts.push(Encoded { ids: Vec::new(), type_ids: Vec::new(), truncated: false });
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder(base)).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("adapter_config.json").is_file());
    folders.sort();
    let adapters: Vec<_> = folders.iter().map(|folder| Arc::new(engine.load_adapter(folder).unwrap())).collect();
    assert!(adapters.len() > 1, "{base}");
    let ask = |text: &Encoded| {
        let text = text.clone();
        adapters.iter().map(move |adapter| Row { text: text.clone(), adapter: Arc::clone(adapter) })
    };
    texts.iter().flat_map(ask).collect()
}

fn close(found: &[Vec<f32>], expected: &[Vec<f32>], most: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= most, "{found:?} {expected:?}");
        }
    }
}

#[test]
fn passes_that_overlap_answer_as_on_the_cpu() {
    for base in BASES {
        let [gpu, cpu] = [cuda(), Backend::cpu()].map(|backend| Engine::open(&folder(base), backend).unwrap());
        let (ours, theirs) = (rows(&gpu, base), rows(&cpu, base));
        let (first, second) = ours.split_at(ours.len() / 2);
        let [one, other] = [first, second].map(|rows| gpu.begin(rows).unwrap());
        let found = [one.finish().unwrap(), other.finish().unwrap()].concat();
        close(&found, &cpu.logits(&theirs).unwrap(), 1e-4);
        // Mixed with others as well as alone.
        close(&gpu.logits(&ours).unwrap(), &found, 1e-5);
        let alone: Vec<_> = ours.iter().map(|row| gpu.logits(std::slice::from_ref(row)).unwrap().remove(0)).collect();
        close(&alone, &found, 1e-5);
        assert!(gpu.begin(&[]).unwrap().finish().unwrap().is_empty());
    }
}

#[test]
fn micro_batches_of_a_gpu_answer_as_one() {
    for base in BASES {
        let engine = Engine::open(&folder(base), cuda()).unwrap();
        let limit = Limit::TRUNCATE;
        let adapters: Vec<_> = rows(&engine, base).into_iter().map(|row| row.adapter).take(5).collect();
        let row = |i: usize| Row {
            text: engine.encode(&"great ".repeat(i + 1), None, &limit).unwrap(),
            adapter: Arc::clone(&adapters[i % adapters.len()]),
        };
        let rows: Vec<Row> = (0..10).map(row).collect();
        let whole = engine.logits(&rows).unwrap();
        let sizes = Sizes { least: 4, most: 20, cores: 1 };
        let (_, asked) = engine.asked(&rows);
        let all: Vec<usize> = (0..rows.len()).collect();
        assert!(plan::plans(&asked, &all, None, |point| engine.layout().share_from(point), sizes).len() > 2, "{base}");
        close(&engine.begin_in(&rows, sizes).unwrap().finish().unwrap(), &whole, 1e-5);
    }
}

/// What is queued on the device may read the adapters until the pass has ended.
#[test]
fn pass_keeps_its_adapters_until_it_is_finished() {
    let engine = Engine::open(&folder("bert"), cuda()).unwrap();
    let rows = rows(&engine, "bert");
    let adapter = Arc::downgrade(&rows[0].adapter);
    let pending = engine.begin(&rows).unwrap();
    drop(rows);
    assert!(adapter.upgrade().is_some());
    pending.finish().unwrap();
    assert!(adapter.upgrade().is_none());
}

#[test]
fn every_architecture_warms_up() {
    for base in BASES {
        Engine::open(&folder(base), cuda()).unwrap().warm_up().unwrap();
    }
}

#[test]
fn precision_is_the_type_of_a_gpu_or_refused() {
    let open = |backend, precision| Engine::prepacked(&folder("bert"), backend, precision, None);
    let engine = open(cuda(), Precision::Bf16).unwrap();
    assert_eq!((engine.precision(), engine.backend().dtype()), (Precision::Bf16, DType::BF16));
    assert_eq!(open(cuda(), Precision::F32).unwrap().backend().dtype(), DType::F32);
    for (backend, precision, message) in [
        (cuda(), Precision::Int8, "the backend cuda does not compute in int8: bf16 needs cpu or cuda, int8 needs cpu"),
        (
            Backend::reference(Device::Cpu),
            Precision::Bf16,
            "the backend reference does not compute in bf16: bf16 needs cpu or cuda, int8 needs cpu",
        ),
    ] {
        assert_eq!(open(backend, precision).map(drop).unwrap_err().to_string(), message);
    }
}
