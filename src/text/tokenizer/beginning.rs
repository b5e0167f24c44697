//! The beginning of a text, where the rest would be cut off anyway. Tokenizing two megabytes takes seconds and hundreds of megabytes of
//! memory, although only some hundred tokens are kept.
//!
//! A text may be cut at a space between two ASCII letters or digits if its tokenizer never joins what lies before such a space with what
//! lies after it. Then the tokens of the beginning are the first tokens of the whole text. Chinese has no spaces, but BERT's tokenizers
//! make a word of each ideograph. There, a text may be cut between two of them.

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

/// Bytes of text for each token that is wanted. English has four or five.
const BYTES_A_TOKEN: usize = 16;

/// How many times longer the next beginning is, if one has too few tokens.
const GROWTH: usize = 4;

/// Where texts may be cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cuts {
    /// At a space between ASCII letters or digits.
    spaces: bool,
    /// Between two ideographs.
    ideographs: bool,
}

impl Cuts {
    /// Texts of this tokenizer are not cut.
    pub(super) const NONE: Self = Self { spaces: false, ideographs: false };

    /// Where `tokenizer`, the whole of `tokenizer.json`, never joins what lies before with what lies after.
    pub(super) fn of(tokenizer: &Value) -> Self {
        let normalizer = &tokenizer["normalizer"];
        let spaces = keeps_spaces(normalizer) && splits(&tokenizer["pre_tokenizer"]);
        let spaced = normalizer["type"] == "BertNormalizer" && normalizer["handle_chinese_chars"] == true;
        Self { spaces, ideographs: spaces && spaced }
    }

    /// These places without those that may lie inside of a token that was added to the vocabulary of `tokenizer`. Such tokens are found
    /// before words are split, some of them in the normalized text.
    pub(super) fn outside_added(self, tokenizer: &Tokenizer) -> Self {
        tokenizer.get_added_vocabulary().get_vocab().keys().fold(self, |cuts, token| {
            let mut normalized = NormalizedString::from(token.as_str());
            let fails = tokenizer.get_normalizer().is_some_and(|all| all.normalize(&mut normalized).is_err());
            cuts.outside((!fails).then_some(&[token.as_str(), normalized.get()]))
        })
    }

    /// These places without those inside of a token with these forms, or none if the token cannot be normalized.
    fn outside(self, forms: Option<&[&str]>) -> Self {
        let Some(forms) = forms else { return Self::NONE };
        let has = |is: fn(char) -> bool| forms.iter().any(|form| form.contains(is));
        Self { spaces: self.spaces && !has(char::is_whitespace), ideographs: self.ideographs && !has(is_ideograph) }
    }

    /// The first place at `from` or after it where the text may be cut.
    fn first(self, text: &str, from: usize) -> Option<usize> {
        let from = (0..from.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let mut before = ['\0'; 2];
        for (at, char) in text[from..].char_indices() {
            let [second_last, last] = before;
            if self.ideographs && is_ideograph(last) && is_ideograph(char) {
                return Some(from + at);
            }
            if self.spaces && second_last.is_ascii_alphanumeric() && last == ' ' && char.is_ascii_alphanumeric() {
                return Some(from + at - 1);
            }
            before = [last, char];
        }
        None
    }
}

/// Whether BERT's tokenizers take this character for a word. They do so with rarer ideographs, too.
fn is_ideograph(char: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&char)
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
pub(super) fn beginnings(text: &str, tokens: usize, cuts: Cuts) -> impl Iterator<Item = &str> {
    let mut at = Some(tokens.saturating_mul(BYTES_A_TOKEN));
    std::iter::from_fn(move || {
        let end = at.take()?.min(text.len());
        // A little more text than that costs less than a second try.
        let cut = end.checked_mul(2).filter(|twice| *twice < text.len()).and_then(|_| cuts.first(text, end));
        at = cut.map(|_| end * GROWTH);
        Some(cut.map_or(text, |cut| &text[..cut]))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{self as tokenizer, BaseInputs, Limit};
    use super::*;

    #[test]
    fn beginnings_grow_to_the_whole_text() {
        let text = "ab ".repeat(100);
        let all = Cuts { spaces: true, ideographs: true };
        let found: Vec<usize> = beginnings(&text, 1, all).map(str::len).collect();
        assert_eq!(found, [17, 65, 300]);
        assert!(beginnings(&text, 1, all).all(|beginning| text.starts_with(beginning)));
        for whole in ["", "a", &".".repeat(1000), &"a  b  ".repeat(100), &"\u{e9} ".repeat(100)] {
            assert_eq!(beginnings(whole, 1, all).collect::<Vec<_>>(), [whole]);
        }
        assert_eq!(beginnings(&text, usize::MAX, all).collect::<Vec<_>>(), [&text]);
        assert_eq!(beginnings(&text, 1, Cuts::NONE).collect::<Vec<_>>(), [&text]);
    }

    #[test]
    fn chinese_is_cut_between_ideographs() {
        let text = "\u{4e2d}\u{6587}".repeat(50);
        let lengths =
            |ideographs| beginnings(&text, 1, Cuts { spaces: true, ideographs }).map(str::len).collect::<Vec<_>>();
        assert_eq!(lengths(true), [18, 66, 300]);
        assert_eq!(lengths(false), [300]);
        // Kana and full stops belong to no word of one character.
        let kana = "\u{3042}\u{4e2d}\u{3002}".repeat(50);
        assert_eq!(beginnings(&kana, 1, Cuts { spaces: true, ideographs: true }).count(), 1);
    }

    #[test]
    fn only_berts_normalizer_separates_ideographs() {
        let found = |normalizer: Value, pre_tokenizer: &str| {
            Cuts::of(&json!({"normalizer": normalizer, "pre_tokenizer": {"type": pre_tokenizer}})).ideographs
        };
        let bert = |separates: bool| json!({"type": "BertNormalizer", "handle_chinese_chars": separates});
        assert!(found(bert(true), "BertPreTokenizer"));
        assert!(!found(bert(false), "BertPreTokenizer"));
        assert!(!found(bert(true), "Split"));
        assert!(!found(json!({"type": "Lowercase"}), "BertPreTokenizer"));
        assert!(!found(Value::Null, "ByteLevel"));
    }

    #[test]
    fn added_tokens_are_never_cut() {
        let all = Cuts { spaces: true, ideographs: true };
        assert_eq!(all.outside(Some(&["[MASK]"])), all);
        assert_eq!(all.outside(Some(&["a b"])), Cuts { spaces: false, ..all });
        assert_eq!(all.outside(Some(&["ab", "a b"])), Cuts { spaces: false, ..all });
        assert_eq!(all.outside(Some(&["\u{4e2d}"])), Cuts { ideographs: false, ..all });
        assert_eq!(all.outside(None), Cuts::NONE);
        assert_eq!(Cuts::NONE.outside(Some(&["[MASK]"])), Cuts::NONE);
    }

    #[test]
    fn tokenizers_that_may_join_words_are_told_apart() {
        let found = |normalizer: Value, pre_tokenizer: Value| {
            Cuts::of(&json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer})).spaces
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
    fn tokenizers() -> Vec<[tokenizer::Tokenizer; 2]> {
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
            tokenizer::Tokenizer::open(dir, &base).unwrap()
        };
        let both = |dir: std::path::PathBuf| {
            let (short, mut whole) = (open(&dir), open(&dir));
            assert!(short.cuts.spaces, "{}", dir.display());
            whole.cuts = Cuts::NONE;
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
            2 => "[\u{4e00}-\u{9fff}]{1,6}",
            1 => prop::sample::select(vec!["e\u{301}", "\u{fb01}", "\u{130}", "\u{4e2d}\u{6587}", "\u{a8}", "\u{1f469}\u{200d}\u{1f4bb}"]).prop_map(str::to_owned),
        ];
        prop::collection::vec(part, 0..400).prop_map(|parts| parts.concat())
    }

    thread_local! {
        static TOKENIZERS: Vec<[tokenizer::Tokenizer; 2]> = tokenizers();
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
                    while let Some(at) = tokenizer.cuts.first(&text, from) {
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
