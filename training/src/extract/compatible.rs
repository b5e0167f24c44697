//! Refuses a fine-tuned model that does not come from the base.

use std::path::Path;

use polyrank::base::BaseConfig;
use polyrank::engine::Engine;
use polyrank::text::Limit;
use serde_json::Value;

use super::change::{Change, Kind};
use crate::error::Error;
use crate::fine_tuned::FineTuned;

/// From this relative change on, the parameters are those of another base. Two independent models differ by about `sqrt(2)`, and
/// fine-tuning changes parameters by a few hundredths.
const OTHER_BASE: f64 = 0.7;

/// A text that tokenizers with other rules (accents, punctuation) or other words split in different ways.
const PROBE: &str = "Naïve cafés, UPPER-case; 3.14% of Tokenizers' 日本 words!";

/// Checks that the configurations of the two encoders agree. Call this before the fine-tuned model is opened, so that an error names the
/// key and not the first tensor with another shape.
///
/// # Errors
/// A configuration cannot be read, or a key differs.
pub fn check_shape(base: &BaseConfig, model: &Path) -> Result<(), Error> {
    let fine = BaseConfig::read(model)?;
    let keys = |config: &BaseConfig| {
        [
            ("model_type", config.model_type.clone()),
            ("num_hidden_layers", config.num_hidden_layers.to_string()),
            ("hidden_size", config.hidden_size.to_string()),
            ("intermediate_size", config.intermediate_size.to_string()),
            ("num_attention_heads", config.num_attention_heads.to_string()),
            ("vocab_size", config.vocab_size.to_string()),
            ("max_position_embeddings", config.max_position_embeddings.to_string()),
            ("type_vocab_size", config.type_vocab_size.to_string()),
            ("layer_norm_eps", config.layer_norm_eps.to_string()),
        ]
    };
    for ((key, expected), (_, found)) in keys(base).into_iter().zip(keys(&fine)) {
        if expected != found {
            return Err(other(&model.join("config.json"), key, expected, found));
        }
    }
    Ok(())
}

/// Checks that both tokenizers have the same words and split texts alike.
///
/// # Errors
/// They differ, or a text cannot be tokenized.
pub(super) fn check_tokenizer(base_dir: &Path, base: &Engine, fine: &FineTuned) -> Result<(), Error> {
    let file = fine.dir.join("tokenizer.json");
    let (expected, found) = (vocabulary(&base_dir.join("tokenizer.json"))?, vocabulary(&file)?);
    if expected != found {
        let count = |words: &Option<Value>| match words {
            Some(Value::Object(words)) => format!("{} words", words.len()),
            Some(Value::Array(words)) => format!("{} words", words.len()),
            _ => "none".to_owned(),
        };
        let (expected, found) = (count(&expected), count(&found));
        return Err(other(&file, "model.vocab", expected, format!("other words ({found})")));
    }
    let limit = Limit::TRUNCATE;
    let upper = upper_case(expected.as_ref());
    let [expected, found] =
        [base.encode(PROBE, Some(&upper), &limit)?, fine.engine.encode(PROBE, Some(&upper), &limit)?];
    if (&expected.ids, &expected.type_ids) != (&found.ids, &found.type_ids) {
        let what = format!("tokens of {PROBE:?} and {upper:?}");
        return Err(other(&file, &what, format!("{:?}", expected.ids), format!("{:?}", found.ids)));
    }
    Ok(())
}

/// Some words of a vocabulary in upper case. A tokenizer that puts text in lower case knows them.
fn upper_case(vocabulary: Option<&Value>) -> String {
    const WORDS: usize = 8;
    let words: Vec<&str> = match vocabulary {
        Some(Value::Object(words)) => words.keys().map(String::as_str).collect(),
        Some(Value::Array(words)) => words.iter().filter_map(|word| word.get(0)?.as_str()).collect(),
        _ => Vec::new(),
    };
    let letters = |word: &&&str| word.len() > 2 && word.chars().all(char::is_alphabetic);
    words.iter().filter(letters).take(WORDS).map(|word| word.to_uppercase()).collect::<Vec<_>>().join(" ")
}

/// The words of a tokenizer with their ids or scores.
fn vocabulary(file: &Path) -> Result<Option<Value>, Error> {
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let mut tokenizer: Value = serde_json::from_slice(&bytes).map_err(|error| Error::malformed(file, error))?;
    Ok(tokenizer.get_mut("model").and_then(|model| model.get_mut("vocab")).map(Value::take))
}

/// Checks that the parameters come from the base and that fine-tuning changed linears.
///
/// # Errors
/// The embeddings or the linears are those of another base, or no linear differs.
pub(super) fn check_changes(fine: &FineTuned, changes: &[Change]) -> Result<(), Error> {
    let file = fine.dir.join("model.safetensors");
    for change in changes.iter().filter(|change| matches!(change.kind, Kind::Embeddings | Kind::Linears)) {
        if change.relative.is_nan() || change.relative >= OTHER_BASE {
            let expected = format!("a relative difference below {OTHER_BASE}");
            return Err(other(&file, change.kind.name(), expected, format!("{:.3}", change.relative)));
        }
    }
    if changes.iter().any(|change| change.kind == Kind::Linears && change.relative > 0.0) {
        return Ok(());
    }
    Err(Error::Unchanged(file))
}

fn other(path: &Path, what: &str, expected: String, found: String) -> Error {
    Error::OtherBase { path: path.to_owned(), what: what.to_owned(), expected, found }
}
