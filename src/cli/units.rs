//! Values with units, as they are written on a command line.

use std::time::Duration;

/// Bytes: `1GiB`, `512MiB`, `4KiB`, `2000000`; fractions are no bytes.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("{unit:?} is not one of B, KiB, MiB, GiB")),
    };
    let number: usize = number.parse().map_err(|error| format!("{number:?}: {error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than this machine can count"))
}

/// A time above 0: `30s`, `500ms`, `2m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(format!("{unit:?} is not one of ms, s, m")),
    };
    let number: u64 = number.parse().map_err(|error| format!("{number:?}: {error}"))?;
    match number.checked_mul(milliseconds) {
        Some(0) => Err("must be above 0".into()),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        None => Err(format!("{text} is too long")),
    }
}

/// A key, which a header can carry only without blanks around it.
pub(super) fn key(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("must not be empty".into()),
        trimmed if trimmed != text => Err("must have no blanks around it".into()),
        key => Ok(key.into()),
    }
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be above 0".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units() {
        for (text, expected) in [("0", 0), ("7B", 7), ("4KiB", 4096), ("3 MiB", 3 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "1.5GiB", "-1", "1GB", "1gib", "99999999999GiB", "99999999999999999999"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_what_a_header_carries() {
        assert_eq!(key("a b"), Ok("a b".into()));
        for text in ["", " ", "k ", "\tk"] {
            assert!(key(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_have_units_and_are_above_zero() {
        for (text, milliseconds) in [("30s", 30_000), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "30", "0s", "s", "1h", "-1s", "1.5s", "99999999999999999m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
