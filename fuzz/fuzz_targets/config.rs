//! A base's `config.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| polyrank::fuzzing::base_config(data));
