//! Texts and pairs to ids, against `transformers`: `goldens/make_tokenize.py` made what is expected.

use std::fs;
use std::path::{Path, PathBuf};

use polyrank::text::{Limit, TokenizeError, Tokenizer};
use serde::Deserialize;
use tempfile::TempDir;

/// Its `tokenizer.json` carries a truncation and a padding, both to be ignored.
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

/// Rows of the goldens' word table.
const WORDS: usize = 117;

fn limit(max_length: impl Into<Option<usize>>, truncate: bool) -> Limit {
    Limit { max_length: max_length.into(), truncate }
}

/// `truncation_side`, text, pair, `max_length` (none: not cut), ids, segment ids.
#[derive(Deserialize)]
struct Case(String, String, Option<String>, Option<usize>, Vec<u32>, Vec<u32>);

#[test]
fn ids_are_those_of_transformers() {
    let left = with_config(Some(r#"{"truncation_side": "left"}"#));
    let right = Tokenizer::open(&golden("bert"), 512, WORDS).unwrap();
    let left = Tokenizer::open(left.path(), 512, WORDS).unwrap();
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
    assert!(cut > 50, "only {cut} cases are cut");
}

/// Nothing can be classified by no token; most tokenizers add some to any text.
#[test]
fn a_text_without_a_token_is_refused() {
    let dir = with_config(None);
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["post_processor"] = serde_json::Value::Null;
    fs::write(&path, json.to_string()).unwrap();
    let plain = Tokenizer::open(dir.path(), 512, WORDS).unwrap();
    for (text, pair) in [("", None), (" \t", None), ("", Some(""))] {
        let error = plain.encode(text, pair, &limit(None, true)).unwrap_err();
        assert!(matches!(error, TokenizeError::Nothing), "{error}");
    }
    assert!(plain.encode("", Some("the"), &limit(None, true)).is_ok());
    assert!(Tokenizer::open(&golden("bert"), 512, WORDS).unwrap().encode("", None, &limit(None, true)).is_ok());
}

#[test]
fn the_longest_text_is_the_lesser_of_what_the_files_say() {
    let max_length =
        |config, positions| Tokenizer::open(with_config(config).path(), positions, WORDS).unwrap().max_length();
    assert_eq!(max_length(None, 77), 77);
    assert_eq!(max_length(Some("{}"), 77), 77);
    assert_eq!(max_length(Some(r#"{"model_max_length": 50}"#), 77), 50);
    assert_eq!(max_length(Some(r#"{"model_max_length": 512}"#), 77), 77);
    assert_eq!(max_length(Some(r#"{"model_max_length": 1000000000000000019884624838656}"#), 77), 77);
    assert_eq!(max_length(Some(r#"{"model_max_length": null}"#), 77), 77);
}

#[test]
fn a_text_too_long_is_refused_where_it_may_not_be_cut() {
    let tokenizer = Tokenizer::open(&golden("bert"), 16, WORDS).unwrap();
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
fn a_limit_without_room_or_above_the_base_is_refused() {
    let tokenizer = Tokenizer::open(&golden("bert"), 16, WORDS).unwrap();
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

/// In a batch it would fail its neighbours.
#[test]
fn a_token_that_the_base_does_not_know_is_refused() {
    let known =
        Tokenizer::open(&golden("bert"), 16, WORDS).unwrap().encode("good film", None, &limit(None, true)).unwrap();
    let largest = *known.ids.iter().max().unwrap();
    let refused = Tokenizer::open(&golden("bert"), 16, largest as usize).unwrap();
    match refused.encode("good film", None, &limit(None, true)) {
        Err(TokenizeError::Word { token, words }) => assert_eq!((token, words), (largest, largest as usize)),
        other => panic!("{other:?}"),
    }
    let enough = Tokenizer::open(&golden("bert"), 16, largest as usize + 1).unwrap();
    assert_eq!(enough.encode("good film", None, &limit(None, true)).unwrap(), known);
}

#[test]
fn malformed_files_are_refused_by_name() {
    let refused =
        |dir: &Path, file: &str| match Tokenizer::open(dir, 512, WORDS).map(|tokenizer| tokenizer.max_length()) {
            Err(TokenizeError::File { path, reason }) => assert_eq!(path, dir.join(file), "{reason}"),
            other => panic!("{other:?}"),
        };
    for config in
        ["", "[]", r#"{"model_max_length": "long"}"#, r#"{"model_max_length": 2}"#, r#"{"model_max_length": -1}"#]
    {
        refused(with_config(Some(config)).path(), "tokenizer_config.json");
    }
    refused(with_config(Some(r#"{"truncation_side": "up"}"#)).path(), "tokenizer_config.json");
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), "tokenizer.json");
    for text in ["", "{}", r#"{"model": {"type": "WordPiece"}}"#, "\u{0}"] {
        fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        refused(dir.path(), "tokenizer.json");
    }
}

/// The pieces cut off a long pair number thousands on either side; their combinations must not be made.
#[test]
fn a_pair_of_a_megabyte_is_cut() {
    let tokenizer = Tokenizer::open(&golden("bert"), 64, WORDS).unwrap();
    let (text, pair) = ("good film ".repeat(100_000), "great story ".repeat(90_000));
    let found = tokenizer.encode(&text, Some(&pair), &limit(None, true)).unwrap();
    let short = tokenizer.encode(&text[..1000], Some(&pair[..1080]), &limit(None, true)).unwrap();
    assert!(found.truncated);
    assert_eq!(found, short);
}
