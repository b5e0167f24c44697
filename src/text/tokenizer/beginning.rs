//! The beginning of a text, where the rest would be cut off anyway. Tokenizing two megabytes takes seconds and hundreds of megabytes of
//! memory, although only some hundred tokens are kept.
//!
//! A text may be cut at a space between two ASCII letters or digits if its tokenizer never joins what lies before such a space with what
//! lies after it. Then the tokens of the beginning are the first tokens of the whole text.

use serde_json::Value;

/// Bytes of text for each token that is wanted. English has four or five.
const BYTES_A_TOKEN: usize = 16;

/// How many times longer the next beginning is, if one has too few tokens.
const GROWTH: usize = 4;

/// Whether `tokenizer`, the whole of `tokenizer.json`, never joins words. Tokens that are added to it must be without spaces, too.
pub(super) fn splits_words(tokenizer: &Value) -> bool {
    keeps_spaces(&tokenizer["normalizer"]) && splits(&tokenizer["pre_tokenizer"])
}

/// Whether a normalizer leaves single spaces between letters or digits alone.
fn keeps_spaces(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some(
            "BertNormalizer" | "Strip" | "StripAccents" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Nmt"
            | "Prepend" | "Precompiled",
        ) => true,
        Some("Replace") => normalizer["pattern"]["Regex"] == " {2,}" || normalizer["pattern"]["String"] == "  ",
        Some("Sequence") => normalizer["normalizers"].as_array().is_some_and(|all| all.iter().all(keeps_spaces)),
        Some(_) => false,
    }
}

/// Whether a pre-tokenizer splits at single spaces between letters or digits. In a sequence, the first one has to: others see only what
/// lies between its splits, and not the text.
fn splits(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit") => true,
        Some("ByteLevel") => pre_tokenizer["use_regex"] != false,
        Some("Metaspace") => pre_tokenizer["split"] != false,
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().is_some_and(|all| all.first().is_some_and(splits))
        }
        _ => false,
    }
}

/// Ever longer beginnings of `text`, of which the last is all of it. The first one probably has more than `tokens` tokens.
pub(super) fn beginnings(text: &str, tokens: usize) -> impl Iterator<Item = &str> {
    let mut at = Some(tokens.saturating_mul(BYTES_A_TOKEN));
    std::iter::from_fn(move || {
        let end = at.take()?.min(text.len());
        // A little more text than that costs less than a second try.
        let cut = end.checked_mul(2).filter(|twice| *twice < text.len()).and_then(|_| cut(text, end));
        at = cut.map(|_| end * GROWTH);
        Some(cut.map_or(text, |cut| &text[..cut]))
    })
}

/// The first place at `from` or after it where the text may be cut.
fn cut(text: &str, from: usize) -> Option<usize> {
    let is_cut =
        |bytes: &[u8]| bytes[0].is_ascii_alphanumeric() && bytes[1] == b' ' && bytes[2].is_ascii_alphanumeric();
    let from = from.saturating_sub(1);
    text.as_bytes().get(from..)?.windows(3).position(is_cut).map(|at| from + at + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{BaseInputs, Limit, Tokenizer};
    use super::*;

    #[test]
    fn beginnings_grow_to_the_whole_text() {
        let text = "ab ".repeat(100);
        let found: Vec<usize> = beginnings(&text, 1).map(str::len).collect();
        assert_eq!(found, [17, 65, 300]);
        assert!(beginnings(&text, 1).all(|beginning| text.starts_with(beginning)));
        for whole in ["", "a", &".".repeat(1000), &"a  b  ".repeat(100), &"\u{e9} ".repeat(100)] {
            assert_eq!(beginnings(whole, 1).collect::<Vec<_>>(), [whole]);
        }
        assert_eq!(beginnings(&text, usize::MAX).collect::<Vec<_>>(), [&text]);
    }

    #[test]
    fn tokenizers_that_may_join_words_are_told_apart() {
        let found = |normalizer: Value, pre_tokenizer: Value| {
            splits_words(&json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}))
        };
        let of = |kind: &str| json!({"type": kind});
        assert!(found(Value::Null, of("ByteLevel")));
        assert!(found(of("BertNormalizer"), of("BertPreTokenizer")));
        assert!(!found(Value::Null, Value::Null));
        assert!(!found(Value::Null, json!({"type": "ByteLevel", "use_regex": false})));
        assert!(!found(Value::Null, json!({"type": "Metaspace", "split": false})));
        assert!(!found(Value::Null, of("Split")));
        let steps = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        assert!(found(Value::Null, steps(of("WhitespaceSplit"), of("Metaspace"))));
        // The first step sees what follows a space, or replaces spaces.
        assert!(!found(Value::Null, steps(of("Split"), of("ByteLevel"))));
        assert!(!found(Value::Null, steps(json!({"type": "ByteLevel", "use_regex": false}), of("WhitespaceSplit"))));
        let replace = |pattern: Value| json!({"type": "Replace", "pattern": pattern, "content": ""});
        let sequence = |last: Value| json!({"type": "Sequence", "normalizers": [of("NFC"), last]});
        assert!(found(sequence(replace(json!({"Regex": " {2,}"}))), of("Metaspace")));
        assert!(!found(sequence(replace(json!({"Regex": "a b"}))), of("Metaspace")));
        assert!(!found(replace(json!({"String": " "})), of("Metaspace")));
    }

    /// The tokenizers of all architectures, each as it is and without shortcuts.
    fn tokenizers() -> Vec<[Tokenizer; 2]> {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let encoders = std::fs::read_dir(goldens.join("encoders")).unwrap().map(|entry| entry.unwrap().path());
        let open = |dir: &Path| {
            let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
            let own_class = match config["model_type"].as_str().unwrap() {
                "deberta-v2" => "DebertaV2Tokenizer",
                "mpnet" => "MPNetTokenizer",
                "roberta" => "RobertaTokenizer",
                "xlm-roberta" => "XLMRobertaTokenizer",
                _ => "BertTokenizer",
            };
            let (positions, words) = (512, 1 << 20);
            let base =
                BaseInputs { own_class, tokenizer_class: None, positions, longest: positions, words, segments: None };
            Tokenizer::open(dir, &base).unwrap()
        };
        let both = |dir: std::path::PathBuf| {
            let (short, mut whole) = (open(&dir), open(&dir));
            assert!(short.splits_words, "{}", dir.display());
            whole.splits_words = false;
            [short, whole]
        };
        encoders.chain([goldens.join("bert")]).map(both).collect()
    }

    /// What may lie beside a space: words, special tokens, what normalisers change, and other spaces.
    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            8 => "[a-zA-Z0-9]{1,12}",
            8 => Just(" ".to_owned()),
            1 => "[ \t\n\u{a0}\u{3000}\u{200b}]{1,3}",
            1 => prop::sample::select(vec!["[MASK]", "<mask>", "<s>", "[SEP]", "</s>", "\u{2581}", "##a", "'s", "'", "."]).prop_map(str::to_owned),
            1 => "\\PC{1,4}",
            1 => prop::sample::select(vec!["e\u{301}", "\u{fb01}", "\u{130}", "\u{4e2d}\u{6587}", "\u{a8}", "\u{1f469}\u{200d}\u{1f4bb}"]).prop_map(str::to_owned),
        ];
        prop::collection::vec(part, 0..400).prop_map(|parts| parts.concat())
    }

    thread_local! {
        static TOKENIZERS: Vec<[Tokenizer; 2]> = tokenizers();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// At each place where a text may be cut. A beginning mostly has more tokens than are wanted, which hides its last ones.
        #[test]
        fn tokens_of_a_beginning_are_the_first_of_the_text(text in text()) {
            TOKENIZERS.with(|tokenizers| {
                for [tokenizer, _] in tokenizers {
                    let tokens = |text: &str| tokenizer.inner.encode_fast(text, false).unwrap().get_ids().to_vec();
                    let whole = tokens(&text);
                    let mut from = 1;
                    while let Some(at) = cut(&text, from) {
                        let beginning = tokens(&text[..at]);
                        prop_assert_eq!(Some(&beginning[..]), whole.get(..beginning.len()), "{:?}", &text[..at]);
                        from = at + 1;
                    }
                }
                Ok(())
            })?;
        }

        #[test]
        fn tokens_are_those_of_the_whole_text(first in text(), second in prop::option::of(text()), max_length in 6usize..24) {
            let limit = Limit { max_length: Some(max_length), ..Limit::TRUNCATE };
            TOKENIZERS.with(|tokenizers| {
                for [short, whole] in tokenizers {
                    let [found, expected] = [short, whole].map(|tokenizer| tokenizer.encode(&first, second.as_deref(), &limit).unwrap());
                    prop_assert_eq!(found, expected);
                }
                Ok(())
            })?;
        }
    }
}
