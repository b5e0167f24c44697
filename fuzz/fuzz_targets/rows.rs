//! The data readers: the first byte chooses the format, the rest is the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use polyrank::text::records::{EXTENSIONS, Records};

fuzz_target!(|data: &[u8]| {
    let Some((&first, content)) = data.split_first() else { return };
    let extension = EXTENSIONS[usize::from(first) % EXTENSIONS.len()];
    let file = tempfile::Builder::new().suffix(&format!(".{extension}")).tempfile().expect("a temporary file");
    std::fs::write(file.path(), content).expect("room for it");
    let Ok(rows) = Records::open(file.path()) else { return };
    // A reader that fails may go on failing for ever on the same row: users stop at the first.
    for row in rows {
        if row.is_err() {
            break;
        }
    }
});
