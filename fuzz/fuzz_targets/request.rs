//! The body of `POST /classify/{adapter}`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| polyrank::fuzzing::request(data));
