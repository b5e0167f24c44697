//! Tokenizes texts, and reads rows from data files.
//!
//! | file | idea |
//! | --- | --- |
//! | `tokenizer.rs` | turns a text or a pair into token ids, as `transformers` does |
//! | `encoded.rs` | a tokenized text |
//! | `rows/` | reads data files of any format, a row at a time |

mod encoded;
pub mod rows;
mod tokenizer;

pub use encoded::Encoded;
pub use tokenizer::{BaseInputs, Limit, TokenizeError, Tokenizer};
pub(crate) use tokenizer::{SIDE_FILES, Side, Token, template};
