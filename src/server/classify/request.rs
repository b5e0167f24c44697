//! What a client asks, read strictly: a wrong type is told by its place, and an unknown parameter is not passed over. What else a
//! body holds beside `inputs` and `parameters` is: clients of hubs send options of theirs.

use serde_json::{Map, Value};

use super::super::error::ApiError;
use crate::engine::score::Function;

/// A text, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) pair: Option<String>,
}

/// A request that makes sense; what it leaves open is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClassifyRequest {
    /// At least one.
    pub(super) texts: Vec<Text>,
    /// The most labels of a text, at least 1.
    pub(super) top: usize,
    pub(super) function: Option<Function>,
    pub(super) truncate: Option<bool>,
    pub(super) max_length: Option<usize>,
}

impl Text {
    /// Of both.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.pair.as_ref().map_or(0, String::len)
    }
}

impl ClassifyRequest {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value = serde_json::from_slice(body).map_err(|error| bad(format!("the body is not JSON: {error}")))?;
        let Value::Object(mut body) = value else {
            return Err(wrong("the body", "an object", &value));
        };
        let inputs = body.remove("inputs").ok_or_else(|| bad("`inputs` is missing".into()))?;
        let mut request =
            Self { texts: texts(inputs)?, top: usize::MAX, function: None, truncate: None, max_length: None };
        match body.remove("parameters") {
            None | Some(Value::Null) => {}
            Some(Value::Object(parameters)) => request.set(&parameters)?,
            Some(other) => return Err(wrong("`parameters`", "an object", &other)),
        }
        Ok(request)
    }

    /// Takes over `parameters`; one that is null is as if absent.
    fn set(&mut self, parameters: &Map<String, Value>) -> Result<(), ApiError> {
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "top_k" => self.top = positive("top_k", value)?,
                "max_length" => self.max_length = Some(positive("max_length", value)?),
                "function_to_apply" => self.function = Some(function(value)?),
                "truncation" => {
                    let truncate = value.as_bool().ok_or_else(|| wrong("`truncation`", "true or false", value))?;
                    self.truncate = Some(truncate);
                }
                unknown => return Err(bad(format!("`parameters.{unknown}` is not a parameter"))),
            }
        }
        Ok(())
    }
}

fn texts(inputs: Value) -> Result<Vec<Text>, ApiError> {
    match inputs {
        Value::Array(items) if items.is_empty() => Err(ApiError::Unprocessable("`inputs` is empty".into())),
        Value::Array(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| text(item, &format!("`inputs[{index}]`"))).collect()
        }
        one => Ok(vec![text(one, "`inputs`")?]),
    }
}

fn text(value: Value, place: &str) -> Result<Text, ApiError> {
    let mut object = match value {
        Value::String(text) => return Ok(Text { text, pair: None }),
        Value::Object(object) => object,
        other => return Err(wrong(place, "a text or an object with `text` and `text_pair`", &other)),
    };
    let pair = match object.remove("text_pair") {
        None | Some(Value::Null) => None,
        Some(Value::String(pair)) => Some(pair),
        Some(other) => return Err(wrong(&format!("`text_pair` of {place}"), "a text", &other)),
    };
    let text = match object.remove("text") {
        Some(Value::String(text)) => text,
        Some(other) => return Err(wrong(&format!("`text` of {place}"), "a text", &other)),
        None => return Err(bad(format!("`text` of {place} is missing"))),
    };
    match object.keys().next() {
        Some(unknown) => Err(bad(format!("{place} has `{unknown}` beside `text` and `text_pair`"))),
        None => Ok(Text { text, pair }),
    }
}

/// A whole number above 0, as large as it may be.
fn positive(name: &str, value: &Value) -> Result<usize, ApiError> {
    // Integers beyond 64 bits are read as fractions.
    match (value.as_u64(), value.as_f64()) {
        (Some(number @ 1..), _) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        (None, Some(number)) if number >= 2f64.powi(64) => Ok(usize::MAX),
        (_, Some(number)) if number.fract() == 0.0 && number <= 0.0 => {
            Err(ApiError::Unprocessable(format!("`{name}` must be above 0, not {value}")))
        }
        (_, Some(_)) => Err(bad(format!("`{name}` must be a whole number, not {value}"))),
        _ => Err(wrong(&format!("`{name}`"), "a whole number", value)),
    }
}

fn function(value: &Value) -> Result<Function, ApiError> {
    match value.as_str() {
        Some("softmax") => Ok(Function::Softmax),
        Some("sigmoid") => Ok(Function::Sigmoid),
        Some("none") => Ok(Function::Identity),
        Some(_) => {
            let text = format!("`function_to_apply` must be softmax, sigmoid or none, not {value}");
            Err(ApiError::Unprocessable(text))
        }
        None => Err(wrong("`function_to_apply`", "a text", value)),
    }
}

fn wrong(place: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    bad(format!("{place} must be {expected}, not {found}"))
}

fn bad(text: String) -> ApiError {
    ApiError::BadRequest(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn text(text: &str) -> Text {
        Text { text: text.into(), pair: None }
    }

    fn pair(first: &str, second: &str) -> Text {
        Text { text: first.into(), pair: Some(second.into()) }
    }

    #[test]
    fn every_shape_of_inputs_is_read() {
        let cases = [
            (r#"{"inputs": "a"}"#, vec![text("a")]),
            (r#"{"inputs": ""}"#, vec![text("")]),
            (r#"{"inputs": ["a", "", "b"]}"#, vec![text("a"), text(""), text("b")]),
            (r#"{"inputs": {"text": "a", "text_pair": "b"}}"#, vec![pair("a", "b")]),
            (r#"{"inputs": {"text": "a", "text_pair": null}}"#, vec![text("a")]),
            (
                r#"{"inputs": [{"text": "a", "text_pair": "b"}, {"text": "c"}, "d"]}"#,
                vec![pair("a", "b"), text("c"), text("d")],
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(ClassifyRequest::parse(body.as_bytes()).unwrap().texts, expected, "{body}");
        }
    }

    #[test]
    fn parameters_are_read_and_null_ones_are_absent() {
        let parse = |body: &str| ClassifyRequest::parse(body.as_bytes()).unwrap();
        let full = parse(
            r#"{"inputs": "a", "parameters": {"top_k": 2, "function_to_apply": "none", "truncation": false, "max_length": 9}}"#,
        );
        assert_eq!((full.top, full.function), (2, Some(Function::Identity)));
        assert_eq!((full.truncate, full.max_length), (Some(false), Some(9)));
        assert_eq!(parse(r#"{"inputs": "a", "parameters": {"top_k": 18446744073709551616}}"#).top, usize::MAX);
        let bare = parse(r#"{"inputs": "a"}"#);
        assert_eq!(parse(r#"{"inputs": "a", "options": {"wait_for_model": true}}"#), bare);
        for empty in [r#"{"inputs": "a", "parameters": null}"#, r#"{"inputs": "a", "parameters": {"top_k": null}}"#] {
            assert_eq!(parse(empty), bare, "{empty}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_status_and_place() {
        let cases: [(&[u8], u16, &str); 28] = [
            (b"", 400, "not JSON"),
            (b"{", 400, "not JSON"),
            (b"\xff\xfe", 400, "not JSON"),
            (b"{\"inputs\": \"\xff\"}", 400, "not JSON"),
            (br#"{"inputs": "\ud800"}"#, 400, "not JSON"),
            (br#"{"inputs": "a"} x"#, 400, "not JSON"),
            (b"[]", 400, "the body must be an object, not a list"),
            (b"{}", 400, "`inputs` is missing"),
            (br#"{"inputs": null}"#, 400, "`inputs` must be a text or an object"),
            (br#"{"inputs": 3}"#, 400, "not a number"),
            (br#"{"inputs": ["a", 3]}"#, 400, "`inputs[1]`"),
            (br#"{"inputs": [["a", "b"]]}"#, 400, "`inputs[0]`"),
            (br#"{"inputs": {"text_pair": "b"}}"#, 400, "`text` of `inputs` is missing"),
            (br#"{"inputs": {"text": 1}}"#, 400, "`text` of `inputs`"),
            (br#"{"inputs": {"text": "a", "text_pair": 1}}"#, 400, "`text_pair` of `inputs`"),
            (br#"{"inputs": {"text": "a", "pair": "b"}}"#, 400, "`pair`"),
            (br#"{"inputs": []}"#, 422, "`inputs` is empty"),
            (br#"{"inputs": "a", "parameters": []}"#, 400, "`parameters` must be an object"),
            (br#"{"inputs": "a", "parameters": {"topk": 1}}"#, 400, "`parameters.topk`"),
            (br#"{"inputs": "a", "parameters": {"top_k": "1"}}"#, 400, "`top_k` must be a whole number, not a text"),
            (br#"{"inputs": "a", "parameters": {"top_k": 1.5}}"#, 400, "`top_k` must be a whole number"),
            (br#"{"inputs": "a", "parameters": {"top_k": 1.0}}"#, 400, "`top_k` must be a whole number, not 1.0"),
            (br#"{"inputs": "a", "parameters": {"top_k": 0}}"#, 422, "`top_k` must be above 0, not 0"),
            (br#"{"inputs": "a", "parameters": {"top_k": -9223372036854775809}}"#, 422, "`top_k` must be above 0"),
            (br#"{"inputs": "a", "parameters": {"top_k": -1}}"#, 422, "`top_k` must be above 0, not -1"),
            (br#"{"inputs": "a", "parameters": {"max_length": 0}}"#, 422, "`max_length`"),
            (br#"{"inputs": "a", "parameters": {"function_to_apply": "tanh"}}"#, 422, "tanh"),
            (br#"{"inputs": "a", "parameters": {"truncation": "longest_first"}}"#, 400, "`truncation`"),
        ];
        for (body, status, part) in cases {
            let error = ClassifyRequest::parse(body).unwrap_err();
            let body = String::from_utf8_lossy(body);
            assert_eq!(error.status().0.as_u16(), status, "{body}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
    }

    #[test]
    fn a_body_nested_without_end_is_refused() {
        let body = format!("{{\"inputs\": {}", "[".repeat(100_000));
        assert_eq!(ClassifyRequest::parse(body.as_bytes()).unwrap_err().status().0.as_u16(), 400);
    }
}
