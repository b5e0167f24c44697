//! Suggestions for names that are not known, such as misspelt keys of a file.

/// Names that are at least this similar are suggested for each other.
const SIMILAR: f64 = 0.8;

/// ` (did you mean NAME?)` for the name in `known` that is most similar to `found`; empty if none is similar.
#[must_use]
pub fn suggestion<T: AsRef<str>>(found: &str, known: &[T]) -> String {
    similar(found, known).map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

/// The name in `known` that is most similar to `found`, if it is similar.
pub(super) fn similar<'a, T: AsRef<str>>(found: &str, known: &'a [T]) -> Option<&'a str> {
    let scored = known.iter().map(|name| (strsim::jaro_winkler(found, name.as_ref()), name.as_ref()));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score >= SIMILAR).map(|(_, name)| name)
}
