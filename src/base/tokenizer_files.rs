//! Makes `tokenizer.json` from older files: a SentencePiece model, a WordPiece vocabulary, or a byte-level BPE.
//!
//! The result equals that of `transformers`' own converter for the same file (`convert_slow_tokenizer.py`).

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Map, Value, json};

use super::ModelError;
use crate::text::{BaseInputs, Class, Rules, Side, Token, template};

/// The SentencePiece model of DeBERTa-v2 and v3.
const SPM: &str = "spm.model";
/// The SentencePiece model of XLM-R.
const XLM_SPM: &str = "sentencepiece.bpe.model";
/// A WordPiece vocabulary, with one token on each line.
const WORD_PIECE: &str = "vocab.txt";
/// The files of a byte-level BPE.
const BPE: [&str; 2] = ["vocab.json", "merges.txt"];

/// The files from which a tokenizer can be made.
pub(super) const SOURCES: [&str; 5] = [SPM, XLM_SPM, WORD_PIECE, BPE[0], BPE[1]];

/// The files that a tokenizer class had before there was a `tokenizer.json`.
struct OlderFiles {
    names: &'static [&'static str],
    /// Makes `tokenizer.json` from those in a folder, and from the settings beside them.
    convert: fn(&Path, &Side) -> Result<Value, ModelError>,
}

impl OlderFiles {
    const BERT: Self = Self { names: &[WORD_PIECE], convert: |dir, side| word_piece(dir, side, &SpecialTokens::BERT) };
    const DEBERTA: Self = Self { names: &[SPM], convert: deberta };
    const MPNET: Self =
        Self { names: &[WORD_PIECE], convert: |dir, side| word_piece(dir, side, &SpecialTokens::MPNET) };
    const ROBERTA: Self = Self { names: &BPE, convert: byte_level };
    const XLM_ROBERTA: Self = Self { names: &[XLM_SPM], convert: xlm_roberta };

    /// The files of a class with these `rules`; `None` if it reads nothing but `tokenizer.json`.
    fn of(rules: Rules) -> Option<Self> {
        match rules {
            Rules::Bert => Some(Self::BERT),
            Rules::MpNet => Some(Self::MPNET),
            Rules::Roberta => Some(Self::ROBERTA),
            Rules::XlmRoberta => Some(Self::XLM_ROBERTA),
            Rules::DebertaV2 => Some(Self::DEBERTA),
            Rules::File => None,
        }
    }
}

/// Makes the tokenizer of `base` from its older files in `dir`. As in `AutoTokenizer`, the class that `tokenizer_config.json` names
/// decides which files are read, or else the class that `config.json` names, or else the architecture's own. So a RoBERTa that names
/// `BertTokenizer`, as some Chinese and Korean ones do, has a `vocab.txt`.
///
/// # Errors
/// If the class is not supported, or its files are missing or malformed.
pub(super) fn tokenizer(dir: &Path, base: &BaseInputs) -> Result<Value, ModelError> {
    let side = Side::read(dir, None)?;
    let class = Class::of(&side, base)?;
    let older = OlderFiles::of(class.rules());
    let there = |name: &&str| dir.join(name).is_file();
    if let Some(older) = older.as_ref().filter(|older| older.names.iter().all(there)) {
        return (older.convert)(dir, &side);
    }
    let own = older.map_or_else(|| "no other file".to_owned(), |older| older.names.join(" and "));
    let found: Vec<&str> = SOURCES.into_iter().filter(there).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    let reason = format!(
        "expected tokenizer.json, or {own} for {}, found {found}; the tokenizer's save_pretrained of transformers writes a \
         tokenizer.json, and tokenizer_class in tokenizer_config.json says which class the tokenizer has",
        class.name()
    );
    Err(ModelError::Convert { path: dir.to_owned(), reason })
}

/// The setting `key`, or `default` if it is absent.
fn says(side: &Side, key: &str, default: bool) -> Result<bool, ModelError> {
    Ok(side.get::<bool>(key)?.unwrap_or(default))
}

/// The fields of `sentencepiece_model.proto` that determine token ids.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    /// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    /// 1 Unigram, which is the default, 2 BPE, 3 words, 4 characters.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
}

/// The parts of a SentencePiece model that determine token ids.
struct SentencePiece {
    pieces: Vec<(String, f32, i32)>,
    unk_id: usize,
    charsmap: Vec<u8>,
}

impl SentencePiece {
    fn read(path: &Path) -> Result<Self, ModelError> {
        let convert = |reason: String| ModelError::Convert { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(ModelError::io(path))?;
        let proto =
            ModelProto::decode(&bytes[..]).map_err(|error| convert(format!("not a SentencePiece model: {error}")))?;
        let trainer = proto.trainer_spec.unwrap_or_default();
        let kind = trainer.model_type.unwrap_or(1);
        if kind != 1 {
            return Err(convert(format!("expected a Unigram model (1), found model_type {kind}")));
        }
        let piece =
            |piece: Piece| (piece.piece.unwrap_or_default(), piece.score.unwrap_or_default(), piece.kind.unwrap_or(1));
        let pieces: Vec<_> = proto.pieces.into_iter().map(piece).collect();
        let unk_id = usize::try_from(trainer.unk_id.unwrap_or(0)).ok().filter(|id| *id < pieces.len());
        let unk_id = unk_id.ok_or_else(|| convert(format!("no piece for unknown words among {}", pieces.len())))?;
        let charsmap = proto.normalizer_spec.and_then(|spec| spec.precompiled_charsmap).unwrap_or_default();
        Ok(Self { pieces, unk_id, charsmap })
    }

    /// The normalizer with which the model was trained, if it has one.
    fn charsmap(&self) -> Option<Value> {
        let map = STANDARD.encode(&self.charsmap);
        (!self.charsmap.is_empty()).then(|| json!({"type": "Precompiled", "precompiled_charsmap": map}))
    }
}

/// An added token.
fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": !special,
           "special": special})
}

/// The post-processor that puts the tokens `[first, last]` with these `ids` around texts.
fn frame(tokens: [&str; 2], ids: [usize; 2], twice: bool, second_segment: u32) -> Value {
    let [first, last] = [0, 1].map(|i| (tokens[i].to_owned(), ids[i] as u32));
    template([&first, &last], twice, second_segment)
}

/// A special token, from the settings or else the architecture's own; and whether the settings name it.
fn special(side: &Side, key: &str, own: &str) -> Result<(Token, bool), ModelError> {
    Ok(match side.token(key)? {
        Some(token) => (token, true),
        None => (Token::Bare(own.to_owned()), false),
    })
}

fn metaspace() -> Value {
    json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true})
}

fn sequence(kind: &str, key: &str, steps: Vec<Value>) -> Value {
    json!({"type": kind, key: steps})
}

fn tokenizer_json(
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    added_tokens: Vec<Value>,
    model: Value,
) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens, "normalizer": normalizer,
           "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": null, "model": model})
}

fn unigram(vocab: &[(String, f32)], unk_id: usize) -> Value {
    json!({"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": false})
}

/// As `DebertaV2Converter` does.
fn deberta(dir: &Path, side: &Side) -> Result<Value, ModelError> {
    let path = dir.join(SPM);
    let model = SentencePiece::read(&path)?;
    let mut steps: Vec<Value> =
        says(side, "do_lower_case", false)?.then(|| json!({"type": "Lowercase"})).into_iter().collect();
    steps.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
    steps.extend(model.charsmap());
    steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    let mut pieces = vec![metaspace()];
    if says(side, "split_by_punct", false)? {
        pieces.insert(0, json!({"type": "Punctuation", "behavior": "Isolated"}));
    }
    let vocab: Vec<(String, f32)> = model.pieces.iter().map(|(piece, score, _)| (piece.clone(), *score)).collect();
    let find = |token: &str| vocab.iter().position(|(piece, _)| piece == token);
    let missing = |token: &str| ModelError::Convert { path: path.clone(), reason: format!("no piece {token}") };
    let mut tokens = Vec::new();
    let mut ids = Vec::new();
    for token in ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] {
        let id = find(token).ok_or_else(|| missing(token))?;
        ids.push(id);
        tokens.push((id, added(id, token, true)));
    }
    // The mask is not a piece, so it comes after the pieces.
    if find("[MASK]").is_none() {
        tokens.push((vocab.len(), added(vocab.len(), "[MASK]", true)));
    }
    for (id, (piece, _, kind)) in
        model.pieces.iter().enumerate().filter(|(id, (.., kind))| matches!(kind, 3 | 4) && !ids.contains(id))
    {
        let mut token = added(id, piece, *kind == 3);
        token["normalized"] = json!(false);
        tokens.push((id, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokenizer_json(
        sequence("Sequence", "normalizers", steps),
        sequence("Sequence", "pretokenizers", pieces),
        frame(["[CLS]", "[SEP]"], [ids[1], ids[2]], false, 1),
        tokens.into_iter().map(|(_, token)| token).collect(),
        unigram(&vocab, model.unk_id),
    ))
}

/// The tokens whose rows fairseq fixes, by their keys in the side files. Other names for them are not supported.
const XLM_TOKENS: [(&str, &str); 5] = [
    ("bos_token", "<s>"),
    ("pad_token", "<pad>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("mask_token", "<mask>"),
];

/// As `XLMRobertaConverter` does: fairseq's four tokens come before the pieces, whose own first three are left out. Blanks at the
/// end of a text are ignored, as in SentencePiece.
fn xlm_roberta(dir: &Path, side: &Side) -> Result<Value, ModelError> {
    let model = SentencePiece::read(&dir.join(XLM_SPM))?;
    for (key, own) in XLM_TOKENS {
        let (token, _) = special(side, key, own)?;
        if token.content() != own {
            let reason = format!("{key}: expected {own}, found {}", token.content());
            return Err(ModelError::Convert { path: dir.join(XLM_SPM), reason });
        }
    }
    let first = ["<s>", "<pad>", "</s>", "<unk>"];
    let mut vocab: Vec<(String, f32)> = first.iter().map(|token| ((*token).to_owned(), 0.0)).collect();
    vocab.extend(model.pieces.iter().skip(3).map(|(piece, score, _)| (piece.clone(), *score)));
    vocab.push(("<mask>".to_owned(), 0.0));
    let mut tokens: Vec<Value> = first.iter().enumerate().map(|(id, token)| added(id, token, true)).collect();
    tokens.push(added(vocab.len() - 1, "<mask>", true));
    let mut steps: Vec<Value> = model.charsmap().into_iter().collect();
    steps.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
    steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{2581}"}));
    Ok(tokenizer_json(
        sequence("Sequence", "normalizers", steps),
        metaspace(),
        frame(["<s>", "</s>"], [0, 2], true, 0),
        tokens,
        unigram(&vocab, 3),
    ))
}

/// The special tokens of an architecture.
struct SpecialTokens {
    first: &'static str,
    last: &'static str,
    padding: &'static str,
    unknown: &'static str,
    mask: &'static str,
    /// Whether the mask includes the space before it.
    mask_takes_space: bool,
    /// Whether a pair has two `last` tokens between its texts, and the number of its second segment.
    pair: (bool, u32),
}

/// The special tokens found in a vocabulary: those of the settings, or else the architecture's own.
struct Found {
    /// The tokens as `tokenizer.json` lists them. A token of the settings that is not in the vocabulary gets its id when the
    /// tokenizer is opened.
    listed: Vec<Value>,
    /// The first and the last token, if the vocabulary has both.
    ends: Option<[(String, u32); 2]>,
    unknown: String,
}

impl SpecialTokens {
    /// Those of `BertConverter`.
    const BERT: Self = Self {
        first: "[CLS]",
        last: "[SEP]",
        padding: "[PAD]",
        unknown: "[UNK]",
        mask: "[MASK]",
        mask_takes_space: false,
        pair: (false, 1),
    };

    /// Those of `MPNetTokenizer`, which does not number segments.
    const MPNET: Self = Self {
        first: "<s>",
        last: "</s>",
        padding: "<pad>",
        unknown: "[UNK]",
        mask: "<mask>",
        mask_takes_space: true,
        pair: (true, 0),
    };

    /// Those of `RobertaTokenizer`, as in release 5.24. In release 4, its mask included the space before it. It still does where a file
    /// beside the vocabulary says so.
    const ROBERTA: Self = Self { unknown: "<unk>", mask_takes_space: false, ..Self::MPNET };

    /// Finds the special tokens' ids with `find`, in the vocabulary of the file at `path`.
    ///
    /// # Errors
    /// If one of the architecture's own tokens that texts need is not in the vocabulary.
    fn find(&self, side: &Side, path: &Path, find: impl Fn(&str) -> Option<usize>) -> Result<Found, ModelError> {
        let mut listed = Vec::new();
        let mut names = Vec::new();
        for (key, own) in [
            ("pad_token", self.padding),
            ("unk_token", self.unknown),
            ("cls_token", self.first),
            ("sep_token", self.last),
            ("mask_token", self.mask),
        ] {
            let (token, stated) = special(side, key, own)?;
            let id = find(token.content());
            match (&token, id) {
                // Texts to classify need neither, unless a text names it.
                (_, None) if stated || ["pad_token", "mask_token"].contains(&key) => {}
                (_, None) => {
                    let reason = format!("no token {}", token.content());
                    return Err(ModelError::Convert { path: path.to_owned(), reason });
                }
                (Token::Flagged(flagged), Some(id)) => {
                    let mut one = json!(flagged);
                    one["id"] = json!(id);
                    listed.push((id, one));
                }
                (Token::Bare(content), Some(id)) => {
                    let mut one = added(id, content, true);
                    one["lstrip"] = json!(key == "mask_token" && self.mask_takes_space);
                    listed.push((id, one));
                }
            }
            names.push((token.content().to_owned(), id));
        }
        listed.sort_by_key(|(id, _)| *id);
        listed.dedup_by_key(|(id, _)| *id);
        let end = |i: usize| names.get(i).and_then(|(name, id)| Some((name.clone(), u32::try_from((*id)?).ok()?)));
        let ends = end(2).zip(end(3)).map(|(first, last)| [first, last]);
        let unknown = names.swap_remove(1).0;
        Ok(Found { listed: listed.into_iter().map(|(_, token)| token).collect(), ends, unknown })
    }
}

/// As `BertConverter` does, with the special tokens of an architecture.
fn word_piece(dir: &Path, side: &Side, special: &SpecialTokens) -> Result<Value, ModelError> {
    let path = dir.join(WORD_PIECE);
    let text = fs::read_to_string(&path).map_err(ModelError::io(&path))?;
    let lines = text.lines().map(|line| line.trim_end_matches('\r')).enumerate();
    let vocab: Map<String, Value> = lines.map(|(id, token)| (token.to_owned(), json!(id))).collect();
    let Found { listed, ends, unknown } = special.find(side, &path, |token| id_of(&vocab, token))?;
    let normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "lowercase": says(side, "do_lower_case", true)?,
        "handle_chinese_chars": says(side, "tokenize_chinese_chars", true)?, "strip_accents": side.get::<bool>("strip_accents")?,
    });
    let post = ends.map_or(Value::Null, |[first, last]| template([&first, &last], special.pair.0, special.pair.1));
    Ok(tokenizer_json(
        normalizer,
        json!({"type": "BertPreTokenizer"}),
        post,
        listed,
        json!({"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
               "vocab": vocab}),
    ))
}

/// The id of a token; `None` if the vocabulary lacks it, or if its id is not that of a token.
fn id_of(vocab: &Map<String, Value>, token: &str) -> Option<usize> {
    vocab.get(token).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).map(|id| id as usize)
}

/// As `RobertaConverter` does.
fn byte_level(dir: &Path, side: &Side) -> Result<Value, ModelError> {
    let [vocab_path, merges_path] = BPE.map(|name| dir.join(name));
    let bytes = fs::read(&vocab_path).map_err(ModelError::io(&vocab_path))?;
    let json = |source| ModelError::Config { path: vocab_path.clone(), source };
    let vocab: Map<String, Value> = serde_json::from_slice(&bytes).map_err(json)?;
    let merges = fs::read_to_string(&merges_path).map_err(ModelError::io(&merges_path))?;
    let lines = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let malformed =
        |line: &str| ModelError::Convert { path: merges_path.clone(), reason: format!("{line:?} is no pair") };
    let merges = lines.map(|line| line.split_once(' ').ok_or_else(|| malformed(line)));
    let merges: Vec<(&str, &str)> = merges.collect::<Result<_, _>>()?;
    let Found { listed, ends, .. } = SpecialTokens::ROBERTA.find(side, &vocab_path, |token| id_of(&vocab, token))?;
    let prefix = says(side, "add_prefix_space", false)?;
    let post = ends.map_or(Value::Null, |[first, last]| {
        json!({"type": "RobertaProcessing", "sep": last, "cls": first, "trim_offsets": true, "add_prefix_space": prefix})
    });
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                       "end_of_word_suffix": "", "fuse_unk": false, "vocab": vocab, "merges": merges});
    let split = json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    Ok(tokenizer_json(Value::Null, split, post, listed, model))
}
