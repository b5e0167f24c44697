//! The body of `POST /classify/{adapter}`. It is read strictly: the error for a value of a wrong type gives its path, such as
//! `inputs[3].text`, and an unknown parameter is an error. Keys other than `inputs` and `parameters` are ignored, because clients of
//! Hugging Face's API send further options.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::{Number, Value};

use super::super::error::ApiError;
use crate::engine::score::Function;

/// A text, or a pair of texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    pub(super) text: String,
    #[serde(rename = "text_pair")]
    pub(super) pair: Option<String>,
}

/// A checked request. A parameter that the client left out is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClassifyRequest {
    /// The texts, at least one.
    pub(super) texts: Vec<Text>,
    /// The maximum number of labels for each text, at least 1.
    pub(super) top: usize,
    pub(super) function: Option<Function>,
    pub(super) truncate: Option<bool>,
    pub(super) max_length: Option<usize>,
}

/// The body after its types are checked and before its values are.
#[derive(Deserialize)]
struct Body {
    inputs: Inputs,
    parameters: Option<Object<Parameters>>,
}

/// All parameters are optional; null counts as absent.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    top_k: Option<Number>,
    max_length: Option<Number>,
    function_to_apply: Option<String>,
    truncation: Option<bool>,
}

impl Text {
    /// The length of the text, or of both texts of a pair.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.pair.as_ref().map_or(0, String::len)
    }
}

impl ClassifyRequest {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let Object(Body { inputs, parameters }) = serde_path_to_error::deserialize(&mut json).map_err(mistyped)?;
        json.end().map_err(not_json)?;
        if inputs.0.is_empty() {
            return Err(ApiError::Unprocessable("inputs: expected at least one text".into()));
        }
        let Parameters { top_k, max_length, function_to_apply, truncation } =
            parameters.map(|Object(parameters)| parameters).unwrap_or_default();
        Ok(Self {
            texts: inputs.0,
            top: top_k.map(|number| positive("top_k", &number)).transpose()?.unwrap_or(usize::MAX),
            function: function_to_apply.as_deref().map(function).transpose()?,
            truncate: truncation,
            max_length: max_length.map(|number| positive("max_length", &number)).transpose()?,
        })
    }
}

/// A body that is not JSON, or a value of a wrong type with its path.
fn mistyped(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let error = error.into_inner();
    match (error.classify(), &*path) {
        (Category::Data, ".") => ApiError::BadRequest(format!("the body: {error}")),
        (Category::Data, path) => ApiError::BadRequest(format!("{path}: {error}")),
        _ => not_json(error),
    }
}

fn not_json(error: serde_json::Error) -> ApiError {
    ApiError::BadRequest(format!("the body is not JSON: {error}"))
}

/// Reads a whole number above 0. A number that is too large for `usize` becomes `usize::MAX`.
fn positive(name: &str, number: &Number) -> Result<usize, ApiError> {
    // `serde_json` reads integers beyond 64 bits as floats.
    match (number.as_u64(), number.as_f64()) {
        (Some(number @ 1..), _) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        (None, Some(number)) if number >= 2f64.powi(64) => Ok(usize::MAX),
        (_, Some(fraction)) if fraction.fract() == 0.0 && fraction <= 0.0 => {
            Err(ApiError::Unprocessable(format!("parameters.{name}: expected a number above 0, found {number}")))
        }
        _ => Err(ApiError::BadRequest(format!("parameters.{name}: expected a whole number, found {number}"))),
    }
}

fn function(name: &str) -> Result<Function, ApiError> {
    match name {
        "softmax" => Ok(Function::Softmax),
        "sigmoid" => Ok(Function::Sigmoid),
        "none" => Ok(Function::Identity),
        _ => {
            let name = Value::from(name);
            let text = format!("parameters.function_to_apply: expected softmax, sigmoid or none, found {name}");
            Err(ApiError::Unprocessable(text))
        }
    }
}

/// Reads a `T` from a JSON object only. A derived `Deserialize` accepts a list of the fields as well.
struct Object<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: DeserializeOwned> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// `inputs`: one text or a list of texts.
struct Inputs(Vec<Text>);

/// An element of `inputs`: a string, or an object with `text` and `text_pair`.
struct Input(Text);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor::<true>).map(Self)
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut texts = deserializer.deserialize_any(InputVisitor::<false>)?;
        texts.pop().map(Self).ok_or_else(|| D::Error::custom("expected a text"))
    }
}

/// Reads one text, or a list of texts if `LIST` is true.
struct InputVisitor<const LIST: bool>;

impl<'de, const LIST: bool> Visitor<'de> for InputVisitor<LIST> {
    type Value = Vec<Text>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if LIST { ", or a list of these" } else { "" };
        write!(f, "a string, or an object with `text` and `text_pair`{list}")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<Text>, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Vec<Text>, E> {
        Ok(vec![Text { text, pair: None }])
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<Text>, A::Error> {
        Ok(vec![Text::deserialize(MapAccessDeserializer::new(map))?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Text>, A::Error> {
        if !LIST {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let mut texts = Vec::new();
        while let Some(Input(text)) = list.next_element()? {
            texts.push(text);
        }
        Ok(texts)
    }
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
    fn reads_every_shape_of_inputs() {
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
    fn reads_parameters_and_null_counts_as_absent() {
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
    fn errors_give_status_and_path() {
        let cases: [(&[u8], u16, &str); 32] = [
            (b"", 400, "not JSON"),
            (b"{", 400, "not JSON"),
            (b"\xff\xfe", 400, "not JSON"),
            (b"{\"inputs\": \"\xff\"}", 400, "not JSON"),
            (br#"{"inputs": "\ud800"}"#, 400, "not JSON"),
            (br#"{"inputs": "a"} x"#, 400, "not JSON"),
            (b"[]", 400, "the body: invalid type: sequence, expected an object"),
            (br#"["a", {}]"#, 400, "the body: invalid type: sequence, expected an object"),
            (b"{}", 400, "the body: missing field `inputs`"),
            (br#"{"inputs": null}"#, 400, "inputs: invalid type: null, expected a string, or an object"),
            (br#"{"inputs": 3}"#, 400, "inputs: invalid type: integer `3`"),
            (br#"{"inputs": ["a", 3]}"#, 400, "inputs[1]: invalid type: integer `3`"),
            (br#"{"inputs": [["a", "b"]]}"#, 400, "inputs[0]: invalid type: sequence, expected a string, or an object"),
            (br#"{"inputs": {"text_pair": "b"}}"#, 400, "inputs: missing field `text`"),
            (br#"{"inputs": {"text": 1}}"#, 400, "inputs.text: invalid type: integer `1`, expected a string"),
            (br#"{"inputs": ["a", {"text": null}]}"#, 400, "inputs[1].text: invalid type: null, expected a string"),
            (br#"{"inputs": {"text": "a", "text_pair": 1}}"#, 400, "inputs.text_pair: invalid type: integer"),
            (br#"{"inputs": {"text": "a", "pair": "b"}}"#, 400, "inputs.pair: unknown field `pair`"),
            (br#"{"inputs": []}"#, 422, "inputs: expected at least one text"),
            (br#"{"inputs": "a", "parameters": []}"#, 400, "parameters: invalid type: sequence, expected an object"),
            (br#"{"inputs": "a", "parameters": {"topk": 1}}"#, 400, "parameters.topk: unknown field `topk`"),
            (br#"{"inputs": "a", "parameters": {"top_k": "1"}}"#, 400, "parameters.top_k: invalid type: string \"1\""),
            (br#"{"inputs": "a", "parameters": {"top_k": 1.5}}"#, 400, "parameters.top_k: expected a whole number"),
            (br#"{"inputs": "a", "parameters": {"top_k": 1.0}}"#, 400, "expected a whole number, found 1.0"),
            (br#"{"inputs": "a", "parameters": {"top_k": 0}}"#, 422, "top_k: expected a number above 0, found 0"),
            (br#"{"inputs": "a", "parameters": {"top_k": -9223372036854775809}}"#, 422, "expected a number above 0"),
            (br#"{"inputs": "a", "parameters": {"top_k": -1}}"#, 422, "top_k: expected a number above 0, found -1"),
            (br#"{"inputs": "a", "parameters": {"max_length": 0}}"#, 422, "parameters.max_length"),
            (br#"{"inputs": "a", "parameters": {"function_to_apply": "tanh"}}"#, 422, "found \"tanh\""),
            (
                br#"{"inputs": "a", "parameters": {"function_to_apply": 1}}"#,
                400,
                "parameters.function_to_apply: invalid",
            ),
            (
                br#"{"inputs": "a", "parameters": {"truncation": "longest_first"}}"#,
                400,
                "parameters.truncation: invalid",
            ),
            (br#"{"inputs": "a", "inputs": "b"}"#, 400, "duplicate field `inputs`"),
        ];
        for (body, status, part) in cases {
            let error = ClassifyRequest::parse(body).unwrap_err();
            let body = String::from_utf8_lossy(body);
            assert_eq!(error.status().0.as_u16(), status, "{body}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
    }

    #[test]
    fn refuses_deeply_nested_body() {
        let body = format!("{{\"inputs\": {}", "[".repeat(100_000));
        assert_eq!(ClassifyRequest::parse(body.as_bytes()).unwrap_err().status().0.as_u16(), 400);
    }
}
