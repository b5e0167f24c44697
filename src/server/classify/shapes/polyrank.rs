//! The project's own shape, which is that of Hugging Face's inference API: `POST /classify/{adapter}`, and `POST /classify` with
//! `adapters`. An unknown parameter is an error, and so is one beside `parameters`. Other keys are ignored, because clients of Hugging
//! Face's API send further options.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Number, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::super::super::config::MOST_TEXTS;
use super::super::super::error::ApiError;
use super::super::json::{self, Object, positive};
use super::super::list::List;
use super::super::request::{Adapters, ClassifyRequest, Form, Scoring, Text};
use super::super::run::RequestLogits;
use super::too_many;
use crate::engine::score::{Function, Scored};

/// A request in the project's own shape.
#[derive(Deserialize, ToSchema)]
#[schema(as = ClassifyBody)]
pub(in crate::server) struct Body {
    /// The text or texts.
    inputs: Inputs,
    #[schema(value_type = Option<Parameters>)]
    parameters: Option<Object<Parameters>>,
    /// The adapters to ask; only for `POST /classify`, where the path names none.
    #[schema(min_items = 1, value_type = Option<Vec<String>>)]
    adapters: Option<List<String>>,
    /// As other servers' clients send it: the name of the path's adapter.
    #[schema(ignore)]
    model: Option<String>,
    #[serde(default, rename = "adapter", deserialize_with = "no_adapter")]
    #[schema(ignore)]
    _adapter: (),
    #[serde(
        default,
        rename = "top_k",
        alias = "max_length",
        alias = "function_to_apply",
        alias = "truncation",
        deserialize_with = "no_parameter"
    )]
    #[schema(ignore)]
    _parameter: (),
}

/// Refuses `adapter`. If it were ignored, another adapter would answer.
fn no_adapter<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(D::Error::custom("expected the adapter's name in the path, or a list of names as \"adapters\""))
}

/// Refuses a parameter that would have no effect where it is.
fn no_parameter<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(D::Error::custom("expected inside of \"parameters\""))
}

/// All parameters are optional; null counts as absent.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::server) struct Parameters {
    /// The maximum number of labels for each text; all by default.
    #[schema(value_type = Option<u64>, minimum = 1)]
    top_k: Option<Number>,
    /// The maximum number of tokens of a text; the base's maximum by default.
    #[schema(value_type = Option<u64>, minimum = 1)]
    max_length: Option<Number>,
    /// How logits become scores: `softmax`, `sigmoid` or `none`; the adapter's own function by default.
    #[schema(pattern = "^(softmax|sigmoid|none)$")]
    function_to_apply: Option<String>,
    /// Whether to truncate texts that are too long, or to refuse them; the server's setting by default.
    truncation: Option<bool>,
}

/// Reads the body of `POST /classify/{adapter}`.
pub(in crate::server::classify) fn parse(body: &[u8], adapter: String) -> Result<ClassifyRequest, ApiError> {
    let body: Body = json::read(body)?;
    if body.adapters.is_some() {
        let text = "adapters: the path names the adapter already; several adapters are asked through POST /classify";
        return Err(ApiError::Unprocessable(text.into()));
    }
    check_model(body.model.as_deref(), &adapter)?;
    body.checked(Adapters::Named(vec![adapter]))
}

/// Refuses a body whose `model` is not the path's adapter. If it were ignored, the wrong adapter would answer.
pub(super) fn check_model(model: Option<&str>, adapter: &str) -> Result<(), ApiError> {
    match model {
        Some(model) if model != adapter => {
            let text = format!("model: the path names the adapter {adapter:?}, found {model:?}");
            Err(ApiError::Unprocessable(text))
        }
        _ => Ok(()),
    }
}

/// Reads the body of `POST /classify` with `adapters`.
pub(in crate::server::classify) fn parse_several(body: &[u8]) -> Result<ClassifyRequest, ApiError> {
    let mut body: Body = json::read(body)?;
    let names = body.adapters.take().map_or(Ok(Vec::new()), List::all);
    let names = names.map_err(|adapters| ApiError::TooManyAdapters { adapters, limit: MOST_TEXTS })?;
    if names.is_empty() {
        return Err(ApiError::Unprocessable("adapters: expected at least one name".into()));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(ApiError::Unprocessable(format!("adapters: {twice:?} is listed more than once")));
    }
    body.checked(Adapters::Named(names))
}

impl Body {
    /// Checks the values.
    pub(super) fn checked(self, adapters: Adapters) -> Result<ClassifyRequest, ApiError> {
        let Inputs { texts, form, count } = self.inputs;
        if texts.is_empty() {
            return Err(ApiError::Unprocessable("inputs: expected at least one text".into()));
        }
        if count > texts.len() {
            return Err(too_many(count));
        }
        let Parameters { top_k, max_length, function_to_apply, truncation } =
            self.parameters.map(|Object(parameters)| parameters).unwrap_or_default();
        let top = top_k.map(|number| positive("parameters.top_k", &number)).transpose()?.unwrap_or(usize::MAX);
        let function = function_to_apply.as_deref().map(function).transpose()?;
        let max_length = max_length.map(|number| positive("parameters.max_length", &number)).transpose()?;
        let scoring = Scoring { function, top };
        Ok(ClassifyRequest { texts, form, adapters, scoring, truncate: truncation, side: None, max_length })
    }
}

/// The labels of each text by adapter, in the order of the request.
pub(in crate::server::classify) struct ByAdapter(Vec<(String, Vec<Vec<Scored>>)>);

impl ByAdapter {
    pub(in crate::server::classify) fn new(outcome: &RequestLogits, scoring: Scoring) -> Result<Self, ApiError> {
        let of = |adapter: &super::super::run::AdapterLogits| Ok((adapter.pin.name().into(), adapter.ranked(scoring)?));
        outcome.adapters.iter().map(of).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for ByAdapter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, lists) in &self.0 {
            map.serialize_entry(name, lists)?;
        }
        map.end()
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

/// `inputs`: one text or a list of texts.
pub(in crate::server) struct Inputs {
    texts: Vec<Text>,
    form: Form,
    /// The number of all texts, of which not all may be kept.
    count: usize,
}

/// An element of `inputs`: a string, or an object with `text` and `text_pair`.
struct Input(Text);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor::<true>)
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut inputs = deserializer.deserialize_any(InputVisitor::<false>)?;
        inputs.texts.pop().map(Self).ok_or_else(|| D::Error::custom("expected a text"))
    }
}

/// Reads one text, or a list of texts if `LIST` is true.
struct InputVisitor<const LIST: bool>;

impl<'de, const LIST: bool> Visitor<'de> for InputVisitor<LIST> {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if LIST { ", or a list of these" } else { "" };
        write!(f, "a string, or an object with `text` and `text_pair`{list}")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Inputs, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Inputs, E> {
        Ok(Inputs { texts: vec![Text::single(text)], form: Form::One, count: 1 })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Inputs, A::Error> {
        Ok(Inputs { texts: vec![Text::deserialize(MapAccessDeserializer::new(map))?], form: Form::One, count: 1 })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Inputs, A::Error> {
        if !LIST {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let List { kept, count } = List::read(list)?;
        Ok(Inputs { texts: kept.into_iter().map(|Input(text)| text).collect(), form: Form::List, count })
    }
}

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        let text = || OneOfBuilder::new().item(String::schema()).item(Text::schema());
        let list = ArrayBuilder::new().items(text()).min_items(Some(1));
        OneOfBuilder::new().item(String::schema()).item(Text::schema()).item(list).into()
    }
}

impl ToSchema for Inputs {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse_plain(body: &[u8]) -> Result<ClassifyRequest, ApiError> {
        parse(body, "plain".into())
    }

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
            assert_eq!(parse_plain(body.as_bytes()).unwrap().texts, expected, "{body}");
        }
    }

    #[test]
    fn reads_parameters_and_null_counts_as_absent() {
        let parse = |body: &str| parse_plain(body.as_bytes()).unwrap();
        let full = parse(
            r#"{"inputs": "a", "parameters": {"top_k": 2, "function_to_apply": "none", "truncation": false, "max_length": 9}}"#,
        );
        assert_eq!(full.scoring, Scoring { function: Some(Function::Identity), top: 2 });
        assert_eq!((full.truncate, full.max_length), (Some(false), Some(9)));
        assert_eq!(parse(r#"{"inputs": "a", "parameters": {"top_k": 18446744073709551616}}"#).scoring.top, usize::MAX);
        let bare = parse(r#"{"inputs": "a"}"#);
        assert_eq!(parse(r#"{"inputs": "a", "options": {"wait_for_model": true}}"#), bare);
        assert_eq!(parse(r#"{"inputs": "a", "model": "plain"}"#), bare);
        assert_eq!(parse(r#"{"inputs": "a", "model": null}"#), bare);
        for empty in [r#"{"inputs": "a", "parameters": null}"#, r#"{"inputs": "a", "parameters": {"top_k": null}}"#] {
            assert_eq!(parse(empty), bare, "{empty}");
        }
    }

    #[test]
    fn errors_give_status_and_path() {
        let cases: [(&[u8], u16, &str); 37] = [
            (b"", 400, "not JSON"),
            (b"{", 400, "not JSON"),
            (b"\xff\xfe", 400, "not JSON"),
            (b"{\"inputs\": \"\xff\"}", 400, "not JSON"),
            (br#"{"inputs": "\ud800"}"#, 400, "not JSON"),
            (br#"{"inputs": "a"} x"#, 400, "not JSON"),
            (b"[]", 400, "the body: invalid type: sequence, expected an object"),
            (br#"["a", {}]"#, 400, "the body: invalid type: sequence, expected an object"),
            (b"{}", 400, "the body: missing field `inputs`"),
            (br#"{"inputs": "a", "adapter": "b"}"#, 400, "adapter: expected the adapter's name in the path"),
            (br#"{"inputs": "a", "top_k": 1}"#, 400, "top_k: expected inside of"),
            (br#"{"truncation": false, "inputs": "a"}"#, 400, "truncation: expected inside of"),
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
            (br#"{"inputs": "a", "model": "b"}"#, 422, "model: the path names the adapter \"plain\", found \"b\""),
            (br#"{"inputs": "a", "model": 1}"#, 400, "model: invalid type"),
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
            let error = parse_plain(body).unwrap_err();
            let body = String::from_utf8_lossy(body);
            assert_eq!(error.status().0.as_u16(), status, "{body}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        let marked = b"\xef\xbb\xbf{\"inputs\": \"a\"}";
        assert_eq!(parse_plain(marked).unwrap().texts, [text("a")]);
        assert_eq!(parse_plain(b"\xef\xbb\xbf\xef\xbb\xbf{}").unwrap_err().status().0.as_u16(), 400);
    }

    #[test]
    fn adapters_are_names_and_listed_once() {
        let several = |adapters: &str| {
            parse_several(format!(r#"{{"inputs": "a", "adapters": {adapters}}}"#).as_bytes())
                .map(|request| request.adapters)
                .map_err(|error| (error.status().0.as_u16(), error.to_string()))
        };
        assert_eq!(several(r#"["b", "a"]"#), Ok(Adapters::Named(vec!["b".into(), "a".into()])));
        for (adapters, status, part) in [
            ("[]", 422, "adapters: expected at least one name"),
            (r#"["a", "b", "a"]"#, 422, "adapters: \"a\" is listed more than once"),
            (r#""a""#, 400, "adapters: invalid type: string"),
            (r#"["a", 3]"#, 400, "adapters[1]: invalid type: integer"),
        ] {
            let (found, text) = several(adapters).unwrap_err();
            assert!(found == status && text.contains(part), "{adapters}: {found} {text}");
        }
        let error = parse_plain(br#"{"inputs": "a", "adapters": ["a", "b"]}"#).unwrap_err();
        assert_eq!(error.status().0.as_u16(), 422);
    }

    #[test]
    fn refuses_deeply_nested_body() {
        let body = format!("{{\"inputs\": {}", "[".repeat(100_000));
        assert_eq!(parse_plain(body.as_bytes()).unwrap_err().status().0.as_u16(), 400);
    }
}
