//! A base in PyTorch's form: any bytes as `pytorch_model.bin`, to be converted.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("pytorch_model.bin"), data).expect("room for it");
    std::fs::write(dir.path().join("tokenizer.json"), "{}").expect("room for it");
    polyrank::fuzzing::convert(dir.path());
});
