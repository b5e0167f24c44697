//! The adapter reader. Input: two little-endian u16 lengths, then `adapter_config.json`, `config.json` (none where its length is
//! 0) and the rest as `adapter_model.safetensors`.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use polyrank::adapter::layout_of;
use polyrank::params::Layout;

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert/ragged");
    layout_of(&golden).expect("the golden adapter")
});

fuzz_target!(|data: &[u8]| {
    let Some((lengths, rest)) = data.split_first_chunk::<4>() else { return };
    let [config, labels] = [[lengths[0], lengths[1]], [lengths[2], lengths[3]]].map(|two| usize::from(u16::from_le_bytes(two)));
    let Some((config, rest)) = rest.split_at_checked(config) else { return };
    let Some((labels, weights)) = rest.split_at_checked(labels) else { return };
    polyrank::fuzzing::adapter(&LAYOUT, config, weights, (!labels.is_empty()).then_some(labels));
});
