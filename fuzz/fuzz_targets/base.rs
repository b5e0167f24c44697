//! The base reader: any bytes as `model.safetensors`; every tensor that its header names is asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use polyrank::base::Weights;

fuzz_target!(|data: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), data).expect("room for it");
    let Ok(weights) = Weights::open(file.path()) else { return };
    for name in ["a", "bert.embeddings.word_embeddings.weight", "classifier.bias"] {
        let shape = weights.find(name).map(|info| info.shape.clone());
        if let Some(shape) = shape {
            let _ = weights.parameter(name, &shape).map(|frozen| frozen.tensor());
        }
    }
});
