//! Lists in a body, of which no more elements are kept than a request may have. A body of many tiny elements would otherwise take many
//! times its own size, for a request that is refused for their number.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder, Schema};

use super::super::config::MOST_TEXTS;

/// A list of any length, of which the first [`MOST_TEXTS`] elements are kept.
#[derive(Debug)]
pub(in crate::server) struct List<T> {
    /// The elements that are kept.
    pub(super) kept: Vec<T>,
    /// The number of all elements.
    pub(super) count: usize,
}

impl<T> List<T> {
    /// Reads the elements of `list`.
    pub(super) fn read<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error>
    where
        T: Deserialize<'de>,
    {
        let mut kept = Vec::new();
        while kept.len() < MOST_TEXTS {
            let Some(element) = list.next_element()? else { return Ok(Self { count: kept.len(), kept }) };
            kept.push(element);
        }
        let mut count = kept.len();
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Self { kept, count })
    }

    /// All elements; the number of them if there are more than are kept.
    pub(super) fn all(self) -> Result<Vec<T>, usize> {
        if self.count > self.kept.len() { Err(self.count) } else { Ok(self.kept) }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<List<T>, A::Error> {
                List::read(list)
            }
        }

        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// A string, or a list.
#[derive(Debug)]
pub(in crate::server) enum OneOrMany<T> {
    /// A string.
    One(String),
    /// A list.
    Many(List<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                List::read(list).map(OneOrMany::Many)
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

/// The schema of a string or a list of strings.
pub(super) fn strings() -> RefOr<Schema> {
    OneOfBuilder::new().item(String::schema()).item(list_of(String::schema())).into()
}

/// The schema of a string, a list of one or two strings, or a list of such lists.
pub(super) fn lists() -> RefOr<Schema> {
    let sequence = || list_of(String::schema()).max_items(Some(2));
    OneOfBuilder::new().item(String::schema()).item(sequence()).item(list_of(sequence())).into()
}

fn list_of(element: impl Into<RefOr<Schema>>) -> ArrayBuilder {
    ArrayBuilder::new().items(element.into()).min_items(Some(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn elements_beyond_the_most_are_counted() {
        let read = |count: usize| -> List<String> {
            let text = format!("[{}]", vec!["\"a\""; count].join(","));
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(read(MOST_TEXTS).all().unwrap().len(), MOST_TEXTS);
        let long = read(MOST_TEXTS + 5);
        assert_eq!(long.kept.len(), MOST_TEXTS);
        assert_eq!(long.all().unwrap_err(), MOST_TEXTS + 5);
    }
}
