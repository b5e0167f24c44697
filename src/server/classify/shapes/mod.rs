//! The shapes of requests and answers that clients of other servers speak. Each file translates one shape to a
//! [`ClassifyRequest`](super::request::ClassifyRequest), and [`RequestLogits`](super::run::RequestLogits) back.

pub(in crate::server) mod polyrank;
pub(in crate::server) mod router;
pub(in crate::server) mod tei;
pub(in crate::server) mod vllm;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::config::MOST_TEXTS;
use super::super::error::ApiError;
use super::json;

/// The shape of a body that was sent to `/classify`, where three shapes share the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `inputs` and `adapters`.
    Several,
    /// `inputs` alone.
    Router,
    /// `input`, and mostly `model`.
    Vllm,
}

/// The error for a list of more texts than any server allows.
fn too_many(texts: usize) -> ApiError {
    ApiError::TooManyTexts { texts, limit: MOST_TEXTS }
}

/// The keys that tell the shapes apart. Null counts as absent.
#[derive(Deserialize)]
struct Keys {
    inputs: Option<IgnoredAny>,
    adapters: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
    input: Option<IgnoredAny>,
}

impl Shape {
    /// The shape of `body`. A body that mixes two shapes is refused: it could mean either.
    pub(super) fn of(body: &[u8]) -> Result<Self, ApiError> {
        let Keys { inputs, adapters, model, input } = json::read(body)?;
        let ours = if inputs.is_some() { "inputs" } else { "adapters" };
        match (inputs.is_some() || adapters.is_some(), input.is_some(), model.is_some()) {
            (true, true, _) => Err(ApiError::Unprocessable(format!("the body has both `{ours}` and `input`"))),
            (true, false, true) => {
                let text =
                    format!("the body has both `{ours}` and `model`: with `inputs`, name adapters in `adapters`");
                Err(ApiError::Unprocessable(text))
            }
            (true, false, false) if adapters.is_some() => Ok(Self::Several),
            (false, true, _) | (false, _, true) => Ok(Self::Vllm),
            _ => Ok(Self::Router),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_decide_the_shape() {
        for (body, shape) in [
            (r#"{"inputs": "a"}"#, Shape::Router),
            (r#"{"inputs": "a", "adapters": null, "model": null}"#, Shape::Router),
            (r#"{}"#, Shape::Router),
            (r#"{"inputs": "a", "adapters": []}"#, Shape::Several),
            (r#"{"adapters": 1}"#, Shape::Several),
            (r#"{"model": "m", "input": "a"}"#, Shape::Vllm),
            (r#"{"input": "a"}"#, Shape::Vllm),
            (r#"{"model": "m"}"#, Shape::Vllm),
        ] {
            assert_eq!(Shape::of(body.as_bytes()).unwrap(), shape, "{body}");
        }
    }

    #[test]
    fn mixed_shapes_are_refused() {
        for (body, part) in [
            (r#"{"inputs": "a", "input": "b"}"#, "both `inputs` and `input`"),
            (r#"{"adapters": ["a"], "input": "b"}"#, "both `adapters` and `input`"),
            (r#"{"inputs": "a", "model": "b"}"#, "both `inputs` and `model`"),
        ] {
            let error = Shape::of(body.as_bytes()).unwrap_err();
            assert_eq!(error.status().0.as_u16(), 422, "{body}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
        assert_eq!(Shape::of(b"[]").unwrap_err().status().0.as_u16(), 400);
    }
}
