//! Suggestions for names that are not known, such as misspelt keys of a file.

use std::fmt::Display;

/// Names that are at least this similar are suggested for each other.
const SIMILAR: f64 = 0.8;

/// ` (did you mean NAME?)` for the name in `known` that is most similar to `found`; empty if none is similar.
#[must_use]
pub fn suggestion<T: AsRef<str> + Display>(found: &str, known: &[T]) -> String {
    let similarity = |name: &&T| strsim::jaro_winkler(found, name.as_ref());
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match nearest.filter(|name| similarity(name) >= SIMILAR) {
        Some(name) => format!(" (did you mean {name}?)"),
        None => String::new(),
    }
}
