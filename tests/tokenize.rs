//! Compares token ids of texts and pairs with `transformers`. `goldens/make_tokenize.py` made the expected ids.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use polyrank::base::architecture::architecture;
use polyrank::text::{BaseInputs, Limit, TokenizeError, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The goldens' `tokenizer.json` sets a truncation and a padding, which must be ignored.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The goldens' tokenizer beside another `tokenizer_config.json`.
fn with_config(config: Option<&str>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden("bert/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    if let Some(config) = config {
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    }
    dir
}

/// The number of rows of the goldens' word embeddings.
const WORDS: usize = 117;

fn inputs(positions: usize, words: usize) -> BaseInputs<'static> {
    BaseInputs {
        own_class: "BertTokenizer",
        tokenizer_class: None,
        positions,
        longest: positions,
        words,
        segments: Some(2),
    }
}

fn open(dir: &Path, positions: usize, words: usize) -> Result<Tokenizer, TokenizeError> {
    Tokenizer::open(dir, &inputs(positions, words))
}

fn limit(max_length: impl Into<Option<usize>>, truncate: bool) -> Limit {
    Limit { max_length: max_length.into(), truncate, side: None }
}

/// `truncation_side`, text, pair, `max_length` (`None`: not truncated), ids, segment ids.
#[derive(Deserialize)]
struct Case(String, String, Option<String>, Option<usize>, Vec<u32>, Vec<u32>);

#[test]
fn ids_equal_those_of_transformers() {
    let left = with_config(Some(r#"{"truncation_side": "left"}"#));
    let right = open(&golden("bert"), 512, WORDS).unwrap();
    let left = open(left.path(), 512, WORDS).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(golden("tokenize.json")).unwrap()).unwrap();
    assert!(cases.len() > 100);
    let mut cut = 0;
    for Case(side, text, pair, max_length, ids, type_ids) in cases {
        let tokenizer = if side == "left" { &left } else { &right };
        let found = tokenizer.encode(&text, pair.as_deref(), &limit(max_length, max_length.is_some())).unwrap();
        assert_eq!((&found.ids, &found.type_ids), (&ids, &type_ids), "{side} {text:?} {pair:?} {max_length:?}");
        let whole = tokenizer.encode(&text, pair.as_deref(), &limit(None, false)).unwrap();
        assert_eq!(found.truncated, whole.ids.len() > ids.len());
        cut += usize::from(found.truncated);
    }
    assert!(cut > 50, "only {cut} cases are truncated");
}

/// Most tokenizers add special tokens to any text. Without them, an empty text has no tokens to classify.
#[test]
fn refuses_text_without_tokens() {
    let dir = with_config(Some(r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#));
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["post_processor"] = serde_json::Value::Null;
    fs::write(&path, json.to_string()).unwrap();
    let plain = open(dir.path(), 512, WORDS).unwrap();
    for (text, pair) in [("", None), (" \t", None), ("", Some(""))] {
        let error = plain.encode(text, pair, &limit(None, true)).unwrap_err();
        assert!(matches!(error, TokenizeError::Nothing), "{error}");
    }
    assert!(plain.encode("", Some("the"), &limit(None, true)).is_ok());
    assert!(open(&golden("bert"), 512, WORDS).unwrap().encode("", None, &limit(None, true)).is_ok());
}

#[test]
fn max_length_is_the_smaller_of_tokenizer_and_base() {
    let max_length = |config, positions| open(with_config(config).path(), positions, WORDS).unwrap().max_length();
    assert_eq!(max_length(None, 77), 77);
    assert_eq!(max_length(Some("{}"), 77), 77);
    assert_eq!(max_length(Some(r#"{"model_max_length": 50}"#), 77), 50);
    assert_eq!(max_length(Some(r#"{"model_max_length": 512}"#), 77), 77);
    assert_eq!(max_length(Some(r#"{"model_max_length": 1000000000000000019884624838656}"#), 77), 77);
    assert_eq!(max_length(Some(r#"{"model_max_length": null}"#), 77), 77);
}

/// `model_max_length` is only the default of `max_length`, as in `transformers`.
#[test]
fn max_length_of_a_request_may_exceed_that_of_the_tokenizer() {
    let tokenizer = open(with_config(Some(r#"{"model_max_length": 8}"#)).path(), 16, WORDS).unwrap();
    let long = "good ".repeat(15);
    assert_eq!(tokenizer.encode(&long, None, &limit(None, true)).unwrap().ids.len(), 8);
    assert_eq!(tokenizer.encode(&long, None, &limit(16, true)).unwrap().ids.len(), 16);
    let refused = tokenizer.encode(&long, None, &limit(17, true)).unwrap_err();
    assert!(matches!(refused, TokenizeError::Limit { most: 16, .. }), "{refused}");
}

#[test]
fn refuses_too_long_text_without_truncation() {
    let tokenizer = open(&golden("bert"), 16, WORDS).unwrap();
    let long = "good ".repeat(15);
    match tokenizer.encode(&long, None, &limit(None, false)) {
        Err(TokenizeError::TooLong { tokens: 17, max_length: 16 }) => {}
        other => panic!("{other:?}"),
    }
    match tokenizer.encode("good good", Some("film film"), &limit(6, false)) {
        Err(TokenizeError::TooLong { tokens: 7, max_length: 6 }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(tokenizer.encode(&long, None, &limit(None, true)).unwrap().ids.len(), 16);
    let fits = tokenizer.encode("good good", Some("film film"), &limit(7, false)).unwrap();
    assert_eq!((fits.ids.len(), fits.truncated), (7, false));
}

#[test]
fn refuses_limits_without_room_or_above_the_base() {
    let tokenizer = open(&golden("bert"), 16, WORDS).unwrap();
    for (pair, max_length, least) in [(None, 0, 3), (None, 2, 3), (None, 17, 3), (Some("film"), 3, 4)] {
        for truncate in [false, true] {
            match tokenizer.encode("good", pair, &limit(max_length, truncate)) {
                Err(TokenizeError::Limit { least: l, most: 16, found }) => assert_eq!((l, found), (least, max_length)),
                other => panic!("{pair:?} {max_length}: {other:?}"),
            }
        }
    }
    assert_eq!(tokenizer.encode("good film", None, &limit(3, true)).unwrap().ids.len(), 3);
}

/// Otherwise the whole batch of such a text would fail.
#[test]
fn refuses_token_without_embedding() {
    let known = open(&golden("bert"), 16, WORDS).unwrap().encode("good film", None, &limit(None, true)).unwrap();
    let largest = *known.ids.iter().max().unwrap();
    let refused = open(&golden("bert"), 16, largest as usize).unwrap();
    match refused.encode("good film", None, &limit(None, true)) {
        Err(TokenizeError::Word { content, token, words }) => {
            assert_eq!((&*content, token, words), ("film", largest, largest as usize));
        }
        other => panic!("{other:?}"),
    }
    // The second text of a pair is in the segment 1.
    for (segments, fits) in [(Some(1), false), (Some(2), true), (None, true)] {
        let base = BaseInputs { segments, ..inputs(16, WORDS) };
        let opened = Tokenizer::open(&golden("bert"), &base).unwrap();
        assert!(opened.encode("good", None, &limit(None, true)).is_ok());
        match opened.encode("good", Some("film"), &limit(None, true)) {
            Ok(_) => assert!(fits),
            Err(TokenizeError::Segment { segment: 1, segments: 1 }) => assert!(!fits),
            other => panic!("{other:?}"),
        }
    }
    let enough = open(&golden("bert"), 16, largest as usize + 1).unwrap();
    assert_eq!(enough.encode("good film", None, &limit(None, true)).unwrap(), known);
}

#[test]
fn errors_name_malformed_files() {
    let refused = |dir: &Path, file: &str| match open(dir, 512, WORDS).map(|tokenizer| tokenizer.max_length()) {
        Err(TokenizeError::File { path, reason }) => assert_eq!(path, dir.join(file), "{reason}"),
        other => panic!("{other:?}"),
    };
    for config in
        ["", "[]", r#"{"model_max_length": "long"}"#, r#"{"model_max_length": 2}"#, r#"{"model_max_length": -1}"#]
    {
        refused(with_config(Some(config)).path(), "tokenizer_config.json");
    }
    refused(with_config(Some(r#"{"truncation_side": "up"}"#)).path(), "tokenizer_config.json");
    // The positions are the base's.
    let dir = with_config(Some(r#"{"model_max_length": 512}"#));
    match open(dir.path(), 2, WORDS).map(|tokenizer| tokenizer.max_length()) {
        Err(TokenizeError::File { path, reason }) => {
            assert!(path == dir.path().join("config.json") && reason.contains("the base's positions, 2,"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), "tokenizer.json");
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#).unwrap();
    for text in ["", "{}", "[]", r#"{"model": {"type": "WordPiece"}}"#, "\u{0}"] {
        fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        refused(dir.path(), "tokenizer.json");
    }
}

/// The crate that reads `tokenizer.json` does not check a template's tokens, and panics on the first text.
#[test]
fn refuses_templates_with_unknown_tokens() {
    let dir = with_config(Some(r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#));
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[START]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    });
    fs::write(&path, json.to_string()).unwrap();
    match open(dir.path(), 512, WORDS).map(|tokenizer| tokenizer.max_length()) {
        Err(TokenizeError::File { path: named, reason }) => assert_eq!(named, path, "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Truncating both texts of a long pair removes thousands of pieces from each. Their combinations must not be computed.
#[test]
fn truncates_a_pair_of_a_megabyte() {
    let tokenizer = open(&golden("bert"), 64, WORDS).unwrap();
    let (text, pair) = ("good film ".repeat(100_000), "great story ".repeat(90_000));
    let found = tokenizer.encode(&text, Some(&pair), &limit(None, true)).unwrap();
    let short = tokenizer.encode(&text[..1000], Some(&pair[..1080]), &limit(None, true)).unwrap();
    assert!(found.truncated);
    assert_eq!(found, short);
}

/// `goldens/make_side_files.py` made the expected ids.
#[test]
fn files_beside_the_tokenizer_change_ids_as_in_transformers() {
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(golden("side_files.json")).unwrap()).unwrap();
    assert!(cases.len() > 100);
    let mut wrong = Vec::new();
    for case in &cases {
        let (name, base) = (case["name"].as_str().unwrap(), golden(case["base"].as_str().unwrap()));
        let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(base.join(name)).unwrap()).unwrap() };
        let mut tokenizer = read("tokenizer.json");
        for (pointer, value) in case["edits"].as_object().unwrap() {
            *tokenizer.pointer_mut(pointer).unwrap() = value.clone();
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let files: &Map<String, Value> = case["files"].as_object().unwrap();
        for (name, value) in files.iter().filter(|(_, value)| !value.is_null()) {
            fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        let config = files.get("config.json").cloned().unwrap_or_else(|| read("config.json"));
        let base = BaseInputs {
            own_class: architecture(config["model_type"].as_str().unwrap()).unwrap().tokenizer_class,
            tokenizer_class: config["tokenizer_class"].as_str(),
            positions: 512,
            longest: 512,
            words: 100_000,
            segments: None,
        };
        let opened = Tokenizer::open(dir.path(), &base).unwrap_or_else(|error| panic!("{name}: {error}"));
        let cut = case["cut"].as_u64().map(|cut| cut as usize);
        for answer in case["answers"].as_array().unwrap() {
            let (text, pair) = (answer[0].as_str().unwrap(), answer[1].as_str());
            let found = opened.encode(text, pair, &limit(cut, true)).unwrap();
            let found = (json!(found.ids), json!(found.type_ids));
            if (&found.0, &found.1) != (&answer[2], &answer[3]) {
                wrong.push(format!(
                    "{name}: {text:?} {pair:?}\n  expected {} {}\n  found    {} {}",
                    answer[2], answer[3], found.0, found.1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} answers are wrong", wrong.join("\n"), wrong.len());
}

/// `goldens/make_truncation.py` made what is kept.
#[test]
fn long_texts_are_cut_on_the_side_that_the_files_state() {
    let whole: Value = serde_json::from_slice(&fs::read(golden("truncation.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(whole["texts"].clone()).unwrap();
    let cases = whole["cases"].as_array().unwrap();
    assert!(cases.len() > 500);
    let open = |base: &str, [stated, own]: [&Value; 2]| {
        let read =
            |name: &str| -> Value { serde_json::from_slice(&fs::read(golden(base).join(name)).unwrap()).unwrap() };
        let (dir, mut tokenizer, mut settings) =
            (tempfile::tempdir().unwrap(), read("tokenizer.json"), read("tokenizer_config.json"));
        tokenizer["truncation"] = json!({"direction": own, "max_length": 128, "strategy": "LongestFirst", "stride": 0});
        // Null counts as absent.
        settings["truncation_side"] = stated.clone();
        fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
        let config = read("config.json");
        let architecture = architecture(config["model_type"].as_str().unwrap()).unwrap();
        let inputs = BaseInputs { own_class: architecture.tokenizer_class, ..inputs(512, 100_000) };
        Tokenizer::open(dir.path(), &inputs).unwrap()
    };
    let mut opened: BTreeMap<String, Tokenizer> = BTreeMap::new();
    for case in cases {
        let (base, sides) = (case["base"].as_str().unwrap(), &case["sides"]);
        let tokenizer = opened.entry(format!("{base} {sides}")).or_insert_with(|| open(base, [&sides[0], &sides[1]]));
        let [first, second] = [0, 1].map(|i| case["texts"][i].as_u64().map(|number| &*texts[number as usize]));
        let max_length = case["max_length"].as_u64().unwrap() as usize;
        let found = tokenizer.encode(first.unwrap(), second, &limit(max_length, true)).unwrap();
        assert_eq!(json!([found.ids, found.type_ids]), case["kept"], "{case}");
    }
}

/// Where a part of `tokenizer.json` is not what the class would make, older releases of `transformers` follow the file, and later
/// releases follow the class.
#[test]
fn errors_name_parts_in_which_releases_differ() {
    let refused = |base: &str, own_class: &'static str, config: Value, edits: Value, key: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut tokenizer: Value =
            serde_json::from_slice(&fs::read(golden(base).join("tokenizer.json")).unwrap()).unwrap();
        for (pointer, value) in edits.as_object().unwrap() {
            *tokenizer.pointer_mut(pointer).unwrap() = value.clone();
        }
        fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let inputs = BaseInputs { own_class, ..inputs(512, WORDS) };
        match Tokenizer::open(dir.path(), &inputs).map(|tokenizer| tokenizer.max_length()) {
            Err(TokenizeError::Unsupported { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
        // With the setting that the message names, the file is used as it is.
        let mut config = config;
        config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::open(dir.path(), &inputs).unwrap();
    };
    let none = || json!({});
    let bert = |edits: Value, key: &str| refused("bert", "BertTokenizer", none(), edits, key);
    bert(json!({"/normalizer": {"type": "Lowercase"}}), "normalizer: type");
    bert(json!({"/normalizer": null}), "normalizer: type");
    bert(json!({"/normalizer/clean_text": false}), "normalizer: clean_text");
    bert(json!({"/pre_tokenizer": {"type": "Whitespace"}}), "pre_tokenizer");
    bert(json!({"/model/max_input_chars_per_word": 50}), "model: max_input_chars_per_word");
    bert(json!({"/model/continuing_subword_prefix": "@@"}), "model: continuing_subword_prefix");
    refused("encoders/roberta", "BertTokenizer", none(), none(), "normalizer: type");
    refused("encoders/roberta", "RobertaTokenizer", none(), json!({"/normalizer": {"type": "NFC"}}), "normalizer");
    refused(
        "encoders/roberta",
        "RobertaTokenizer",
        none(),
        json!({"/pre_tokenizer/use_regex": false}),
        "pre_tokenizer: use_regex",
    );
    let merges = json!({"/model/ignore_merges": true});
    refused("encoders/roberta", "RobertaTokenizer", none(), merges, "model: ignore_merges");
    // As it is, such a file may not even open.
    for (pointer, value, key) in [
        ("/model/end_of_word_suffix", json!("</w>"), "model: end_of_word_suffix"),
        ("/model/continuing_subword_prefix", json!("</w>"), "model: continuing_subword_prefix"),
        // A byte that the vocabulary lacks is an unknown token for the file, and nothing for the class.
        ("/model/vocab", json!({"<unk>": 0}), "model: unk_token"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let whole = fs::read(golden("encoders/roberta/tokenizer.json")).unwrap();
        let mut tokenizer: Value = serde_json::from_slice(&whole).unwrap();
        *tokenizer.pointer_mut(pointer).unwrap() = value;
        fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
        let found = Tokenizer::open(dir.path(), &BaseInputs { own_class: "RobertaTokenizer", ..inputs(512, WORDS) });
        match found.map(|tokenizer| tokenizer.max_length()) {
            Err(TokenizeError::Unsupported { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
    }
    refused(
        "encoders/mpnet",
        "MPNetTokenizer",
        none(),
        json!({"/normalizer/handle_chinese_chars": false}),
        "normalizer: handle_chinese_chars",
    );
    let normalizer = |kind: &str| json!({"/normalizer": {"type": kind}});
    refused("encoders/deberta", "DebertaV2Tokenizer", none(), normalizer("Lowercase"), "normalizer: \"Lowercase\"");
    refused("encoders/deberta", "DebertaV2Tokenizer", none(), normalizer("NFKC"), "normalizer: \"NFKC\"");
    refused(
        "encoders/xlm-roberta",
        "XLMRobertaTokenizer",
        none(),
        normalizer("Lowercase"),
        "normalizer: \"Lowercase\"",
    );
    let other = json!({"/normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}});
    refused("encoders/xlm-roberta", "XLMRobertaTokenizer", none(), other, "normalizer: Replace: pattern");
    let split = json!({"/normalizer": null, "/pre_tokenizer": {"type": "Whitespace"}});
    refused("encoders/xlm-roberta", "XLMRobertaTokenizer", none(), split.clone(), "pre_tokenizer: \"Whitespace\"");
    refused("encoders/deberta", "DebertaV2Tokenizer", none(), split, "pre_tokenizer: \"Whitespace\"");
    for class in ["BertJapaneseTokenizer", "CamembertTokenizerFast"] {
        refused("bert", "BertTokenizer", json!({"tokenizer_class": class}), none(), "tokenizer_class");
    }
}

/// A base's `tokenizer.json` may still say how it was trained.
#[test]
fn merges_are_never_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(golden("encoders/roberta/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&whole).unwrap();
    let roberta = || BaseInputs { own_class: "RobertaTokenizer", ..inputs(512, 1 << 16) };
    let plain = Tokenizer::open(&golden("encoders/roberta"), &roberta()).unwrap();
    let text = "the plot of the film was good and the actors were great";
    let expected = plain.encode(text, None, &limit(None, false)).unwrap().ids;
    tokenizer["model"]["dropout"] = json!(0.9);
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for class in [json!({}), json!({"tokenizer_class": "PreTrainedTokenizerFast"})] {
        fs::write(dir.path().join("tokenizer_config.json"), class.to_string()).unwrap();
        let found = Tokenizer::open(dir.path(), &roberta()).unwrap();
        for _ in 0..10 {
            assert_eq!(found.encode(text, None, &limit(None, false)).unwrap().ids, expected, "{class}");
        }
    }
}

#[test]
fn errors_name_malformed_files_beside_the_tokenizer() {
    let refused = |name: &str, value: Value, words: &str| {
        let dir = with_config(None);
        fs::write(dir.path().join(name), value.to_string()).unwrap();
        match open(dir.path(), 512, WORDS).map(|tokenizer| tokenizer.max_length()) {
            Err(TokenizeError::File { path, reason }) => {
                assert_eq!(path, dir.path().join(name));
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{name} {value}: {other:?}"),
        }
    };
    let config = "tokenizer_config.json";
    refused(config, json!({"do_lower_case": "no"}), "do_lower_case = \"no\"");
    refused(config, json!({"strip_accents": 1}), "strip_accents = 1");
    refused(config, json!({"model_input_names": "input_ids"}), "model_input_names");
    refused(config, json!({"cls_token": 3}), "cls_token = 3");
    refused(config, json!({"cls_token": null}), "cls_token is null");
    refused(config, json!({"additional_special_tokens": [3]}), "extra_special_tokens = 3");
    refused(config, json!({"added_tokens_decoder": []}), "added_tokens_decoder");
    refused(config, json!({"added_tokens_decoder": {"x": {"content": "<x>"}}}), "added_tokens_decoder: x");
    refused(config, json!({"added_tokens_decoder": {"7": "<x>"}}), "added_tokens_decoder: 7");
    refused("added_tokens.json", json!([]), "expected a map");
    refused("added_tokens.json", json!({"<x>": -1}), "<x> = -1");
    refused("special_tokens_map.json", json!("x"), "expected a map");
    // The model has no token for unknown words.
    let dir = with_config(Some(r#"{"unk_token": "<nowhere>"}"#));
    let unknown = open(dir.path(), 512, WORDS).unwrap().encode("☃", None, &limit(None, true)).unwrap_err();
    assert!(matches!(unknown, TokenizeError::Text(_)), "{unknown}");
}

/// The added token's id is beyond the vocabulary, where this base has no embedding. Texts without this token are still tokenized.
#[test]
fn error_names_added_token_without_embedding() {
    let dir = with_config(Some(r#"{"additional_special_tokens": ["<ent>"]}"#));
    let tokenizer = open(dir.path(), 512, WORDS).unwrap();
    assert!(tokenizer.encode("good film", None, &limit(None, true)).is_ok());
    match tokenizer.encode("good <ent> film", None, &limit(None, true)) {
        Err(error @ TokenizeError::Word { .. }) => assert!(error.to_string().contains("\"<ent>\""), "{error}"),
        other => panic!("{other:?}"),
    }
}
