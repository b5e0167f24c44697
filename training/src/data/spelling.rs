//! Reads numbers as data files spell them: `1`, `1.0`, `1e0` and `+01` are the same whole number.

/// The whole number that `text` spells in any way; `None` for anything else, and for more than 38 digits.
pub(super) fn whole(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{integer}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    if significant.trim_start_matches('0').is_empty() {
        return Some(0);
    }
    // The value is `significant * 10^shift`.
    let dropped = i32::try_from(digits.len() - significant.len()).ok()?;
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
    let power = 10_i128.checked_pow(u32::try_from(shift).ok()?)?;
    let value = significant.parse::<i128>().ok()?.checked_mul(power)?;
    Some(if negative { -value } else { value })
}

/// The number that `text` spells; `None` for anything else, and for NaN and infinity.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|value: &f64| digits && value.is_finite())
}

/// Whether `text` is something that programs write for a missing or too large number.
pub(super) fn is_no_number(text: &str) -> bool {
    text.parse().is_ok_and(|value: f64| !value.is_finite()) || ["<NA>", "null", "None"].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::{is_no_number, number, whole};

    #[test]
    fn reads_whole_numbers_in_any_spelling() {
        for text in ["1", "+1", "01", "1.", "1.0", "1.000", "1e0", "1E0", "0.1e1", "10e-1", "+1.0e+0", "100E-2"] {
            assert_eq!(whole(text), Some(1), "{text}");
        }
        for (text, value) in [("-1", -1), ("-0", 0), ("0.0", 0), ("0e5", 0), ("-2.0", -2), ("3e2", 300), (".0", 0)] {
            assert_eq!(whole(text), Some(value), "{text}");
        }
        assert_eq!(whole("12345678901234567890123"), Some(12_345_678_901_234_567_890_123));
        for text in [
            "", "-", "+", ".", "1.5", "1e-1", "e1", "1e", "1_0", "0x1", "1,0", "--1", "NaN", "inf", "1e400", "٣", "1 2",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
        assert_eq!(whole(&"9".repeat(50)), None);
    }

    #[test]
    fn words_are_not_numbers() {
        for text in ["NaN", "nan", "inf", "-inf", "infinity", "1e999", "one", ""] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!((number("1.5"), number("-.5e1")), (Some(1.5), Some(-5.0)));
        assert!(["NaN", "inf", "-Infinity", "1e999", "<NA>"].iter().all(|text| is_no_number(text)));
        assert!(!is_no_number("information") && !is_no_number("1"));
    }
}
