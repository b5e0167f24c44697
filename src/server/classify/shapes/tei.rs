//! The shape of text-embeddings-inference: `POST /predict/{adapter}`. There, a list of two strings is a pair, and a batch is a list of
//! lists. Keys that it does not know are ignored, as they are there.

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::super::error::ApiError;
use super::super::json;
use super::super::list::{self, List, OneOrMany};
use super::super::request::{Adapters, ClassifyRequest, Form, Scoring, Text};
use super::polyrank::check_model;
use super::too_many;
use crate::engine::score::Function;
use crate::text::TruncationSide;

/// The body.
#[derive(Deserialize, ToSchema)]
#[schema(as = PredictBody)]
pub(in crate::server) struct Body {
    /// A text, a pair (a list of two strings), or a batch (a list of lists of one or two strings).
    #[schema(schema_with = list::lists)]
    inputs: OneOrMany<OneOrMany<String>>,
    /// Whether to answer with logits instead of scores.
    raw_scores: Option<bool>,
    /// Whether to truncate texts that are too long, or to refuse them; the server's setting by default.
    truncate: Option<bool>,
    /// The side at which texts that are too long lose tokens; the base's by default.
    #[schema(pattern = "^(L|l)eft$|^(R|r)ight$")]
    truncation_direction: Option<String>,
    #[schema(ignore)]
    model: Option<String>,
}

/// Reads the body.
pub(in crate::server::classify) fn parse(body: &[u8], adapters: Adapters) -> Result<ClassifyRequest, ApiError> {
    let Body { inputs, raw_scores, truncate, truncation_direction, model } = json::read(body)?;
    // TEI has one model and ignores the key. Here, another adapter would answer.
    let adapters = match (adapters, model) {
        (Adapters::Named(names), model) => {
            names.iter().try_for_each(|name| check_model(model.as_deref(), name))?;
            Adapters::Named(names)
        }
        (Adapters::Implied { .. }, Some(model)) => Adapters::Named(vec![model]),
        (implied, None) => implied,
    };
    let side = truncation_direction.as_deref().map(side).transpose()?;
    let (texts, form) = match inputs {
        OneOrMany::One(text) => (vec![Text::single(text)], Form::One),
        OneOrMany::Many(list) => texts(list)?,
    };
    let scoring = Scoring::all(raw_scores.unwrap_or(false).then_some(Function::Identity));
    Ok(ClassifyRequest { texts, form, adapters, scoring, truncate, side, max_length: None })
}

fn side(direction: &str) -> Result<TruncationSide, ApiError> {
    match direction.to_ascii_lowercase().as_str() {
        "left" => Ok(TruncationSide::Left),
        "right" => Ok(TruncationSide::Right),
        _ => Err(ApiError::Unprocessable(format!("truncation_direction: expected left or right, found {direction:?}"))),
    }
}

/// The texts of a list: a pair if its elements are strings, and a batch if they are lists.
fn texts(list: List<OneOrMany<String>>) -> Result<(Vec<Text>, Form), ApiError> {
    let (mut strings, mut lists) = (Vec::new(), Vec::new());
    let count = list.count;
    for (index, element) in list.kept.into_iter().enumerate() {
        match element {
            OneOrMany::One(text) => strings.push(text),
            OneOrMany::Many(texts) => lists.push(sequence(&format!("inputs[{index}]"), texts.kept, texts.count)?),
        }
    }
    match (strings.is_empty(), lists.is_empty()) {
        (true, true) => Err(ApiError::Unprocessable("inputs: expected at least one text".into())),
        (false, true) => Ok((vec![sequence("inputs", strings, count)?], Form::One)),
        (true, false) if count > lists.len() => Err(too_many(count)),
        (true, false) => Ok((lists, Form::List)),
        (false, false) => {
            let text = "inputs: expected a string, a list of one or two strings, or a list of such lists";
            Err(ApiError::BadRequest(text.into()))
        }
    }
}

/// A list of one text or of a pair, which had `found` elements.
fn sequence(path: &str, texts: Vec<String>, found: usize) -> Result<Text, ApiError> {
    let mut texts = texts.into_iter();
    match (texts.next(), texts.next(), texts.next()) {
        (Some(text), pair, None) => Ok(Text { text, pair }),
        _ => Err(ApiError::Unprocessable(format!(
            "{path}: expected one string or a pair, found {found}; a batch is a list of lists"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(body: &str) -> Result<ClassifyRequest, ApiError> {
        parse(body.as_bytes(), Adapters::Named(vec!["plain".into()]))
    }

    #[test]
    fn lists_mean_pairs_and_lists_of_lists_batches() {
        let pair = |text: &str, pair: &str| Text { text: text.into(), pair: Some(pair.into()) };
        let single = |text: &str| Text::single(text.into());
        for (inputs, texts, form) in [
            (r#""a""#, vec![single("a")], Form::One),
            (r#"["a"]"#, vec![single("a")], Form::One),
            (r#"["a", "b"]"#, vec![pair("a", "b")], Form::One),
            (r#"[["a"], ["b", "c"]]"#, vec![single("a"), pair("b", "c")], Form::List),
        ] {
            let request = read(&format!(r#"{{"inputs": {inputs}}}"#)).unwrap();
            assert_eq!((request.texts, request.form), (texts, form), "{inputs}");
        }
    }

    #[test]
    fn options_are_read_or_refused_by_name() {
        let options = r#"{"inputs": "a", "raw_scores": true, "truncate": false, "truncation_direction": "Right"}"#;
        let request = read(options).unwrap();
        assert_eq!((request.scoring, request.truncate), (Scoring::all(Some(Function::Identity)), Some(false)));
        assert_eq!(request.side, Some(TruncationSide::Right));
        for (direction, side) in [
            (r#""left""#, Some(TruncationSide::Left)),
            (r#""Left""#, Some(TruncationSide::Left)),
            (r#""right""#, Some(TruncationSide::Right)),
            ("null", None),
        ] {
            let body = format!(r#"{{"inputs": "a", "truncation_direction": {direction}}}"#);
            assert_eq!(read(&body).unwrap().side, side);
        }
        for (body, status, part) in [
            (
                r#"{"inputs": "a", "truncation_direction": "up"}"#,
                422,
                "truncation_direction: expected left or right, found \"up\"",
            ),
            (r#"{"inputs": "a", "truncation_direction": 1}"#, 400, "truncation_direction: invalid type"),
            (r#"{"inputs": "a", "raw_scores": "yes"}"#, 400, "raw_scores: invalid type"),
            (r#"{"inputs": "a", "model": "b"}"#, 422, "model: the path names the adapter \"plain\", found \"b\""),
            (r#"{"inputs": []}"#, 422, "inputs: expected at least one text"),
            (r#"{"inputs": ["a", "b", "c"]}"#, 422, "inputs: expected one string or a pair, found 3"),
            (r#"{"inputs": [["a"], []]}"#, 422, "inputs[1]: expected one string or a pair, found 0"),
            (r#"{"inputs": ["a", ["b"]]}"#, 400, "inputs: expected a string, a list of one or two strings"),
            (r#"{"inputs": {"text": "a"}}"#, 400, "inputs: invalid type: map, expected a string or a list"),
            (r#"{"inputs": [["a", 1]]}"#, 400, "inputs[0][1]: invalid type: integer `1`, expected a string"),
            ("{}", 400, "missing field `inputs`"),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.status().0.as_u16(), status, "{body}: {error}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
    }
}
