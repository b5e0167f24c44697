//! Tokenizes texts, and reads records from data files.
//!
//! | file | idea |
//! | --- | --- |
//! | `tokenizer.rs` | turns a text or a pair into token ids, as `transformers` does |
//! | `encoded.rs` | a tokenized text |
//! | `records/` | reads data files of any format, a record at a time |

mod encoded;
pub mod records;
mod tokenizer;

pub use encoded::Encoded;
pub(crate) use tokenizer::{AS_IT_IS, Class, Rules, SIDE_FILES, Side, Token, template};
pub use tokenizer::{BaseInputs, Limit, TokenizeError, Tokenizer, TruncationSide};
