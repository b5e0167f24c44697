//! Tokenizes examples.

use polyrank::engine::Engine;
use polyrank::text::{Encoded, Limit};

use super::Example;
use crate::error::Error;

/// Tokenizes every example's text.
///
/// # Errors
/// `max_length` is too small, or larger than the base allows.
pub fn encode(engine: &Engine, examples: &[Example], max_length: usize) -> Result<Vec<Encoded>, Error> {
    let limit = Limit { max_length: Some(max_length), truncate: true, side: None };
    let encode = |example: &Example| Ok(engine.encode(&example.text, example.pair.as_deref(), &limit)?);
    examples.iter().map(encode).collect()
}
