//! Reading a JSON body strictly: the error for a value of a wrong type gives its path, such as `inputs[3].text`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;
use serde_json::error::Category;

use super::super::error::ApiError;

/// A UTF-8 byte-order mark, which some clients on Windows send before the JSON.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a body that is one JSON object.
pub(in super::super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // `serde_json` alone accepts other bytes in the values of keys that are ignored.
    let text = std::str::from_utf8(body.strip_prefix(MARK).unwrap_or(body)).map_err(not_json)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(mistyped)?;
    json.end().map_err(not_json)?;
    Ok(value)
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

fn not_json(error: impl fmt::Display) -> ApiError {
    ApiError::BadRequest(format!("the body is not JSON: {error}"))
}

/// Reads a whole number above 0 at `path`. A number that is too large for `usize` becomes `usize::MAX`.
pub(super) fn positive(path: &str, number: &Number) -> Result<usize, ApiError> {
    // `serde_json` reads integers beyond 64 bits as floats.
    match (number.as_u64(), number.as_f64()) {
        (Some(number @ 1..), _) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        (None, Some(number)) if number >= 2f64.powi(64) => Ok(usize::MAX),
        (_, Some(fraction)) if fraction.fract() == 0.0 && fraction <= 0.0 => {
            Err(ApiError::Unprocessable(format!("{path}: expected a number above 0, found {number}")))
        }
        _ => Err(ApiError::BadRequest(format!("{path}: expected a whole number, found {number}"))),
    }
}

/// Reads a `T` from a JSON object only. A derived `Deserialize` accepts a list of the fields as well.
pub(super) struct Object<T>(pub(super) T);

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
