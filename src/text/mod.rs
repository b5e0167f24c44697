//! Texts: from characters to token ids, and from data files to rows.
//!
//! | file | idea |
//! | --- | --- |
//! | `tokenizer.rs` | from a text or a pair to ids, as `transformers` does |
//! | `encoded.rs` | a text as ids |
//! | `rows/` | data files of any format, a row at a time |

mod encoded;
pub mod rows;
mod tokenizer;

pub use encoded::Encoded;
pub use tokenizer::{BaseInputs, Limit, TokenizeError, Tokenizer};
pub(crate) use tokenizer::{SIDE_FILES, Side, Token, template};
