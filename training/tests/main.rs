//! The integration tests of training, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod data;
mod dataset;
mod device;
mod evaluate;
mod extract;
mod folder;
mod gradients;
mod host;
mod hub;
mod methods;
mod metric;
mod resume;
mod run;
mod schedule;
mod serve;
mod settings;
mod several;
mod sora;
mod steps;
mod sweep;
mod tasks;
mod trainer;

use std::path::{Path, PathBuf};

use candle_core::Device;
use polyrank::encoder::Packed;
use polyrank::engine::Engine;
use polyrank::params::{Backend, Precision};
use polyrank::text::Encoded;

/// The tiny bases of the runtime's goldens other than BERT, in `tests/goldens/encoders`.
const ENCODERS: [&str; 9] = [
    "roberta",
    "xlm-roberta",
    "electra",
    "distilbert",
    "deberta",
    "deberta-v2",
    "modernbert",
    "modernbert-mean",
    "mpnet",
];

/// The tiny BERT of the runtime's goldens.
fn base_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert")
}

/// The cache of the commands under test.
fn home() -> &'static str {
    env!("CARGO_TARGET_TMPDIR")
}

/// The tiny BERT, opened as by the commands.
fn engine() -> Engine {
    Engine::prepacked(&base_dir(), &Device::Cpu, Precision::F32, None).unwrap()
}

/// One of [`ENCODERS`].
fn encoder_on(name: &str, backend: &Backend) -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/encoders").join(name);
    Engine::open(&dir, backend).unwrap()
}

/// The backends that every machine has; the last is a GPU's, whose kernels run on the CPU.
fn backends() -> [Backend; 3] {
    polyrank::cuda::run_on_host(polyrank_on_host::launch);
    [Backend::cpu(), Backend::reference(Device::Cpu), Backend::cuda_on_host()]
}

/// Packs texts given by ids and segments, as in the goldens' `batch.json`.
fn pack(texts: &serde_json::Value) -> Packed {
    let ids = |text: &serde_json::Value, key: &str| -> Vec<u32> { serde_json::from_value(text[key].clone()).unwrap() };
    let texts: Vec<Encoded> = texts
        .as_array()
        .unwrap()
        .iter()
        .map(|text| Encoded { ids: ids(text, "ids"), type_ids: ids(text, "type_ids"), truncated: false })
        .collect();
    Packed::new(&texts)
}
