//! The shape of vLLM's `POST /classify`, and of SGLang's `/v1/classify`: `{"model": "adapter", "input": ["text"]}`. Unknown keys are
//! ignored, as in these servers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use super::super::super::error::ApiError;
use super::super::super::request_id::RequestId;
use super::super::host_label::HostLabel;
use super::super::json::{self, positive};
use super::super::list::{self, OneOrMany};
use super::super::request::{Adapters, ClassifyRequest, Form, Scoring, Text};
use super::super::run::RequestLogits;
use super::too_many;
use crate::engine::score::Function;

/// The body.
#[derive(Deserialize, ToSchema)]
#[schema(as = VllmBody)]
pub(in crate::server) struct Body {
    /// The adapter; by default the one that the request's host names, or the default adapter.
    model: Option<String>,
    /// One text, or a list of texts.
    #[schema(schema_with = list::strings)]
    input: OneOrMany<String>,
    /// The maximum number of tokens of a text, or -1 for the base's maximum; longer texts are truncated.
    #[schema(value_type = Option<i64>, minimum = -1)]
    truncate_prompt_tokens: Option<Number>,
    /// False gives logits instead of scores.
    #[serde(alias = "activation")]
    use_activation: Option<bool>,
    /// Only true is supported.
    add_special_tokens: Option<bool>,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmAnswer)]
pub(in crate::server) struct Answer {
    /// `classify-` and the request's id.
    id: String,
    /// Always `list`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    /// The adapter that answered.
    model: String,
    data: Vec<Classified>,
    usage: Usage,
}

/// The result of one text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmClassified)]
pub(in crate::server) struct Classified {
    /// The text's index in `input`.
    index: usize,
    /// The label with the highest score.
    label: String,
    /// The score of each label, in the order of the labels' ids.
    probs: Vec<f32>,
    /// The number of labels.
    num_classes: usize,
}

/// How many tokens the texts have.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmUsage)]
pub(in crate::server) struct Usage {
    /// Tokens of all texts, with special tokens and after truncation.
    prompt_tokens: usize,
    /// The same number.
    total_tokens: usize,
    /// Always 0.
    completion_tokens: usize,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    prompt_tokens_details: Option<()>,
}

/// Reads the body.
pub(in crate::server::classify) fn parse(body: &[u8], host: HostLabel) -> Result<ClassifyRequest, ApiError> {
    let Body { model, input, truncate_prompt_tokens, use_activation, add_special_tokens } = json::read(body)?;
    let texts: Vec<Text> = match input {
        OneOrMany::One(text) => vec![Text::single(text)],
        OneOrMany::Many(texts) => texts.all().map_err(too_many)?.into_iter().map(Text::single).collect(),
    };
    if texts.is_empty() {
        return Err(ApiError::Unprocessable("input: expected at least one text".into()));
    }
    if add_special_tokens == Some(false) {
        return Err(ApiError::Unprocessable("add_special_tokens: only true is supported".into()));
    }
    let (truncate, max_length) = match truncate_prompt_tokens {
        None => (None, None),
        Some(number) if number.as_i64() == Some(-1) => (Some(true), None),
        Some(number) => (Some(true), Some(positive("truncate_prompt_tokens", &number)?)),
    };
    let adapters = model.map_or(Adapters::Implied { host: host.0 }, |name| Adapters::Named(vec![name]));
    let scoring = Scoring::all(use_activation.is_some_and(|activation| !activation).then_some(Function::Identity));
    Ok(ClassifyRequest { texts, form: Form::List, adapters, scoring, truncate, side: None, max_length })
}

impl Answer {
    /// The answer to the request `id`.
    pub(in crate::server::classify) fn new(
        outcome: &RequestLogits,
        scoring: Scoring,
        id: &RequestId,
    ) -> Result<Self, ApiError> {
        let adapter = outcome.only();
        let labels = &adapter.pin.adapter().info.labels;
        let (scores, best) = (adapter.scores(scoring.function)?, adapter.ranked(Scoring { top: 1, ..scoring })?);
        let mut data = Vec::with_capacity(scores.len());
        for (index, (probs, best)) in scores.into_iter().zip(best).enumerate() {
            let label = best.into_iter().next().map(|scored| scored.label).unwrap_or_default();
            data.push(Classified { index, label, probs, num_classes: labels.len() });
        }
        let tokens = outcome.tokens;
        Ok(Self {
            id: format!("classify-{id}"),
            object: "list",
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            model: adapter.pin.name().into(),
            data,
            usage: Usage {
                prompt_tokens: tokens,
                total_tokens: tokens,
                completion_tokens: 0,
                prompt_tokens_details: None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(body: &str) -> Result<ClassifyRequest, ApiError> {
        parse(body.as_bytes(), HostLabel(Some("host".into())))
    }

    #[test]
    fn options_are_read() {
        let named = |name: &str| Adapters::Named(vec![name.into()]);
        let request =
            read(r#"{"model": "m", "input": ["a", "b"], "truncate_prompt_tokens": 9, "use_activation": false}"#);
        let request = request.unwrap();
        assert_eq!((request.texts.len(), request.adapters), (2, named("m")));
        assert_eq!((request.truncate, request.max_length), (Some(true), Some(9)));
        assert_eq!(request.scoring, Scoring::all(Some(Function::Identity)));
        let bare = read(r#"{"input": "a", "truncate_prompt_tokens": -1, "activation": true, "user": "x"}"#).unwrap();
        assert_eq!(bare.adapters, Adapters::Implied { host: Some("host".into()) });
        assert_eq!((bare.truncate, bare.max_length, bare.scoring), (Some(true), None, Scoring::all(None)));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for (body, status, part) in [
            (r#"{"model": "m"}"#, 400, "missing field `input`"),
            (r#"{"model": 1, "input": "a"}"#, 400, "model: invalid type"),
            (r#"{"model": "m", "input": [1, 2]}"#, 400, "input[0]: invalid type: integer `1`, expected a string"),
            (r#"{"model": "m", "input": []}"#, 422, "input: expected at least one text"),
            (r#"{"model": "m", "input": "a", "truncate_prompt_tokens": 0}"#, 422, "truncate_prompt_tokens: expected"),
            (r#"{"model": "m", "input": "a", "truncate_prompt_tokens": -2}"#, 422, "truncate_prompt_tokens: expected"),
            (r#"{"model": "m", "input": "a", "truncate_prompt_tokens": 1.5}"#, 400, "truncate_prompt_tokens: expected"),
            (r#"{"model": "m", "input": "a", "use_activation": "yes"}"#, 400, "use_activation: invalid type"),
            (r#"{"model": "m", "input": "a", "add_special_tokens": false}"#, 422, "add_special_tokens: only true"),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.status().0.as_u16(), status, "{body}: {error}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
    }
}
