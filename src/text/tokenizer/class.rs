//! The rules of the tokenizer classes of `transformers`, as in release 5.24. Each class makes its normaliser, its pre-tokenizer and its
//! special tokens from `tokenizer_config.json`, and ignores those in `tokenizer.json`. If `tokenizer.json` has parts that the class
//! would not make, some releases follow the file and others the class; such a tokenizer is refused.
//!
//! One exception: DeBERTa-v2's files as release 4 wrote them have SentencePiece's table of characters as a step of the normaliser, with
//! which such bases were trained. It is kept, although release 5.24 drops it and finds unknown pieces for characters such as `…` and `½`.

use serde_json::{Map, Value, json};
use tokenizers::PostProcessorWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::side::{Side, Token};
use super::{BaseInputs, TokenizeError, file};

/// A class that uses `tokenizer.json` as it is.
pub(crate) const AS_IT_IS: &str = "PreTrainedTokenizerFast";

/// All classes that use `tokenizer.json` as it is.
const PLAIN: [&str; 4] = [AS_IT_IS, "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"];

/// Classes of `transformers` whose rules are not implemented here.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "AlbertTokenizer", "BarthezTokenizer", "BartphoTokenizer", "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertweetTokenizer",
    "BigBirdTokenizer", "BioGptTokenizer", "BlenderbotSmallTokenizer", "BlenderbotTokenizer", "ByT5Tokenizer", "CLIPTokenizer",
    "CTRLTokenizer", "CamembertTokenizer", "CanineTokenizer", "CodeGenTokenizer", "CodeLlamaTokenizer", "CohereTokenizer",
    "CpmAntTokenizer", "CpmTokenizer", "DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer",
    "DebertaTokenizer", "EsmTokenizer", "EsmcTokenizer", "FNetTokenizer", "FSMTTokenizer", "FlaubertTokenizer", "FunnelTokenizer",
    "GPT2Tokenizer", "GPTNeoXJapaneseTokenizer", "GPTNeoXTokenizer", "GPTSw3Tokenizer", "GemmaTokenizer", "HerbertTokenizer",
    "LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer", "LayoutXLMTokenizer", "LlamaTokenizer", "LukeTokenizer", "M2M100Tokenizer",
    "MBart50Tokenizer", "MBartTokenizer", "MLukeTokenizer", "MarianTokenizer", "MarkupLMTokenizer", "MyT5Tokenizer", "NllbTokenizer",
    "OpenAIGPTTokenizer", "PLBartTokenizer", "PegasusTokenizer", "PerceiverTokenizer", "PhobertTokenizer", "ProphetNetTokenizer",
    "Qwen2Tokenizer", "ReformerTokenizer", "RemBertTokenizer", "RoCBertTokenizer", "RoFormerTokenizer", "SplinterTokenizer",
    "T5Tokenizer", "TapasTokenizer", "WhisperTokenizer", "XGLMTokenizer", "XLMTokenizer", "XLNetTokenizer",
];

/// The rules of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    Bert,
    MpNet,
    Roberta,
    XlmRoberta,
    DebertaV2,
    /// `tokenizer.json` is used as it is.
    File,
}

/// A tokenizer class.
#[derive(Debug)]
pub(crate) struct Class {
    name: String,
    rules: Rules,
    /// Whether a model gets type ids if `model_input_names` is absent.
    typed: bool,
}

impl Class {
    /// The class that `AutoTokenizer` uses for a base: the one that `tokenizer_config.json` names, or else the one that the base's
    /// configuration names, or else that of the architecture.
    ///
    /// # Errors
    /// The rules of the class are not implemented.
    pub(crate) fn of(side: &Side, base: &BaseInputs) -> Result<Self, TokenizeError> {
        let stated = side.get::<String>("tokenizer_class")?;
        let named_in =
            if stated.is_some() { side.path().to_owned() } else { side.path().with_file_name("config.json") };
        let named = stated.or_else(|| base.tokenizer_class.map(str::to_owned));
        let named = named.filter(|_| base.own_class != AS_IT_IS).unwrap_or_else(|| base.own_class.to_owned());
        let name = if PLAIN.contains(&&*named) { &named } else { named.strip_suffix("Fast").unwrap_or(&named) };
        let (rules, typed) = match name {
            "BertTokenizer"
            | "ElectraTokenizer"
            | "LayoutLMTokenizer"
            | "LxmertTokenizer"
            | "MobileBertTokenizer"
            | "SqueezeBertTokenizer"
            | "ConvBertTokenizer" => (Rules::Bert, true),
            "DistilBertTokenizer" => (Rules::Bert, false),
            "MPNetTokenizer" => (Rules::MpNet, false),
            "RobertaTokenizer" | "LongformerTokenizer" | "BartTokenizer" | "LEDTokenizer" | "MvpTokenizer" => {
                (Rules::Roberta, false)
            }
            "XLMRobertaTokenizer" => (Rules::XlmRoberta, false),
            "DebertaV2Tokenizer" => (Rules::DebertaV2, true),
            other if OTHERS.contains(&other) => {
                return Err(TokenizeError::Unsupported {
                    path: named_in,
                    key: "tokenizer_class".to_owned(),
                    expected: format!(
                        "the class of a base that is served, or {AS_IT_IS} to use tokenizer.json as it is"
                    ),
                    found: named,
                });
            }
            // A class that `transformers` does not know either.
            _ => (Rules::File, false),
        };
        Ok(Self { name: name.to_owned(), rules, typed })
    }

    /// Its name, without the `Fast` with which some names end.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// Whether the model gets type ids.
    ///
    /// # Errors
    /// `model_input_names` is not a list of names.
    pub(super) fn gives_types(&self, side: &Side) -> Result<bool, TokenizeError> {
        let names = side.get::<Vec<String>>("model_input_names")?;
        Ok(names.map_or(self.typed, |names| names.iter().any(|name| name == "token_type_ids")))
    }

    /// The special tokens for which the files give no value. `file` is the whole `tokenizer.json`.
    pub(super) fn defaults(&self, file: &Value) -> Vec<(&'static str, Token)> {
        let bare = |key, content: &str| (key, Token::Bare(content.to_owned()));
        let common = |unknown| {
            vec![
                bare("bos_token", "<s>"),
                bare("eos_token", "</s>"),
                bare("unk_token", unknown),
                bare("sep_token", "</s>"),
                bare("pad_token", "<pad>"),
                bare("cls_token", "<s>"),
                bare("mask_token", "<mask>"),
            ]
        };
        match self.rules {
            Rules::Bert | Rules::DebertaV2 => {
                let mut all = vec![
                    bare("unk_token", "[UNK]"),
                    bare("sep_token", "[SEP]"),
                    bare("pad_token", "[PAD]"),
                    bare("cls_token", "[CLS]"),
                    bare("mask_token", "[MASK]"),
                ];
                if self.rules == Rules::DebertaV2 {
                    all.extend([bare("bos_token", "[CLS]"), bare("eos_token", "[SEP]")]);
                }
                all
            }
            Rules::MpNet => common("[UNK]"),
            Rules::Roberta | Rules::XlmRoberta => common("<unk>"),
            Rules::File => {
                file["padding"]["pad_token"].as_str().map(|token| bare("pad_token", token)).into_iter().collect()
            }
        }
    }

    /// Adds flags to a special token that is a bare string: MPNet's mask includes the space before it.
    pub(super) fn flags(&self, key: &str, token: Token) -> Token {
        match token {
            Token::Bare(content) if self.rules == Rules::MpNet => {
                Token::Flagged(tokenizers::AddedToken::from(content, true).lstrip(key == "mask_token"))
            }
            token => token,
        }
    }

    /// Changes `whole`, a `tokenizer.json`, as the class does. [`Side::to_add`] and [`Self::frame`] supply the added tokens and the
    /// post-processor.
    ///
    /// # Errors
    /// `whole` has parts that the class would not make.
    pub(super) fn apply(&self, whole: &mut Value, side: &Side) -> Result<(), TokenizeError> {
        // With dropout, merges are left out at random, as when a base is trained. Answers must not be random.
        if whole["model"].get("dropout").is_some() {
            whole["model"]["dropout"] = Value::Null;
        }
        match self.rules {
            Rules::Bert | Rules::MpNet => self.word_piece(whole, side)?,
            Rules::Roberta => self.byte_level(whole, side)?,
            Rules::XlmRoberta => self.sentence_piece(whole, side)?,
            Rules::DebertaV2 => self.unigram(whole, side)?,
            Rules::File => return Ok(()),
        }
        whole["added_tokens"] = json!([]);
        Ok(())
    }

    /// Makes `BertNormalizer` and `BertPreTokenizer` from `tokenizer_config.json`.
    fn word_piece(&self, whole: &mut Value, side: &Side) -> Result<(), TokenizeError> {
        self.expect(side, "normalizer: type", &whole["normalizer"]["type"], "BertNormalizer")?;
        self.expect(side, "normalizer: clean_text", &whole["normalizer"]["clean_text"], true)?;
        self.expect(side, "pre_tokenizer", &whole["pre_tokenizer"], json!({"type": "BertPreTokenizer"}))?;
        let model = &whole["model"];
        self.expect(side, "model: type", model.get("type").unwrap_or(&json!("WordPiece")), "WordPiece")?;
        self.expect(side, "model: continuing_subword_prefix", &model["continuing_subword_prefix"], "##")?;
        self.expect(side, "model: max_input_chars_per_word", &model["max_input_chars_per_word"], 100)?;
        let chinese = side.get::<bool>("tokenize_chinese_chars")?;
        // For MPNet, only later releases read this key.
        if self.rules == Rules::MpNet && chinese.is_none() {
            self.expect(side, "normalizer: handle_chinese_chars", &whole["normalizer"]["handle_chinese_chars"], true)?;
        }
        whole["normalizer"] = json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": chinese.unwrap_or(true),
            "strip_accents": side.get::<bool>("strip_accents")?, "lowercase": side.get::<bool>("do_lower_case")?.unwrap_or(true),
        });
        whole["model"]["unk_token"] = json!(self.required(side, "unk_token")?);
        Ok(())
    }

    fn byte_level(&self, whole: &mut Value, side: &Side) -> Result<(), TokenizeError> {
        self.expect(side, "normalizer", &whole["normalizer"], Value::Null)?;
        let split = &whole["pre_tokenizer"];
        self.expect(side, "pre_tokenizer: type", &split["type"], "ByteLevel")?;
        self.expect(side, "pre_tokenizer: use_regex", split.get("use_regex").unwrap_or(&json!(true)), true)?;
        self.expect(side, "model: type", whole["model"].get("type").unwrap_or(&json!("BPE")), "BPE")?;
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            let affix = whole["model"].get(key).filter(|affix| !affix.is_null()).cloned().unwrap_or_else(|| json!(""));
            self.expect(side, &format!("model: {key}"), &affix, "")?;
        }
        let ignores = whole["model"].get("ignore_merges").unwrap_or(&Value::Bool(false));
        self.expect(side, "model: ignore_merges", ignores, false)?;
        // The class leaves out bytes that are not in the vocabulary.
        let vocab = &whole["model"]["vocab"];
        if ByteLevel::alphabet().into_iter().any(|byte| vocab.get(byte.to_string()).is_none()) {
            self.expect(side, "model: unk_token", &whole["model"]["unk_token"], Value::Null)?;
            let falls_back = whole["model"].get("byte_fallback").unwrap_or(&Value::Bool(false));
            self.expect(side, "model: byte_fallback", falls_back, false)?;
        }
        whole["pre_tokenizer"]["add_prefix_space"] = json!(side.get::<bool>("add_prefix_space")?.unwrap_or(false));
        Ok(())
    }

    /// Keeps the characters' map of SentencePiece, and makes the other steps. Those of the file do the same, but at the ends of texts.
    fn sentence_piece(&self, whole: &mut Value, side: &Side) -> Result<(), TokenizeError> {
        let steps = sequence(&whole["normalizer"], "normalizers");
        self.only(side, "normalizer", &steps, &["Precompiled", "Strip", "Replace"])?;
        let spaces = json!({"Regex": " {2,}"});
        for step in steps.iter().filter(|step| step["type"] == "Replace") {
            self.expect(side, "normalizer: Replace: pattern", &step["pattern"], spaces.clone())?;
        }
        let split = sequence(&whole["pre_tokenizer"], "pretokenizers");
        self.only(side, "pre_tokenizer", &split, &["WhitespaceSplit", "Metaspace"])?;
        whole["normalizer"] = steps.into_iter().find(|step| step["type"] == "Precompiled").unwrap_or_default();
        let scheme = if side.get::<bool>("add_prefix_space")?.unwrap_or(true) { "always" } else { "never" };
        whole["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true},
        ]});
        Ok(())
    }

    /// Refuses steps of a part of `tokenizer.json` that are not of these types.
    fn only(&self, side: &Side, part: &str, steps: &[Value], types: &[&str]) -> Result<(), TokenizeError> {
        let other = |step: &&Value| !types.iter().any(|known| step["type"] == *known);
        match steps.iter().find(other) {
            Some(step) => self.expect(side, &format!("{part}: {}", step["type"]), &Value::Bool(true), false),
            None => Ok(()),
        }
    }

    /// Keeps the file's steps, and adds or removes those for lower case and punctuation as `tokenizer_config.json` says.
    fn unigram(&self, whole: &mut Value, side: &Side) -> Result<(), TokenizeError> {
        let (lower, split) = (json!({"type": "Lowercase"}), json!({"type": "Punctuation", "behavior": "Isolated"}));
        let normal: &[&str] = &["Lowercase", "Strip", "Precompiled", "Replace", "NFC"];
        for (part, steps, types, (step, key)) in [
            ("normalizer", "normalizers", normal, (lower, "do_lower_case")),
            ("pre_tokenizer", "pretokenizers", &["Punctuation", "Metaspace"], (split, "split_by_punct")),
        ] {
            let mut all = sequence(&whole[part], steps);
            self.only(side, part, &all, types)?;
            let there = all.iter().any(|known| known["type"] == step["type"]);
            match (side.get::<bool>(key)?, there) {
                (Some(true), false) => all.insert(0, step),
                (Some(false), true) => all.retain(|known| known["type"] != step["type"]),
                (None, true) => self.expect(side, &format!("{part}: {}", step["type"]), &json!(true), false)?,
                _ => continue,
            }
            whole[part] = json!({"type": "Sequence", steps: all});
        }
        // Later releases find the piece for unknown words by its score, which is 0.
        let unknown = self.required(side, "unk_token")?;
        let pieces = whole["model"]["vocab"].as_array().into_iter().flatten();
        let id = pieces.into_iter().position(|piece| piece[0] == *unknown && piece[1].as_f64() == Some(0.0));
        match id {
            Some(id) => whole["model"]["unk_id"] = json!(id),
            None => self.expect(side, "model: unk_id", &whole["model"]["unk_id"], 1)?,
        }
        if let Some(prefix) = side.get::<bool>("add_prefix_space")? {
            prepend(&mut whole["pre_tokenizer"], if prefix { "always" } else { "first" });
        }
        Ok(())
    }

    /// Refuses a part of `tokenizer.json` that is not what the class makes.
    fn expect(&self, side: &Side, part: &str, found: &Value, expected: impl Into<Value>) -> Result<(), TokenizeError> {
        let expected = expected.into();
        if *found == expected {
            return Ok(());
        }
        let expected = format!(
            "{expected}, which {} makes whatever the file says (releases of transformers differ in which they follow; with \
             \"tokenizer_class\": \"{AS_IT_IS}\" in tokenizer_config.json the file is taken as it is; then \
             \"model_input_names\": [\"input_ids\", \"token_type_ids\", \"attention_mask\"] keeps the segments of pairs)",
            self.name
        );
        let path = side.path().with_file_name("tokenizer.json");
        Err(TokenizeError::Unsupported { path, key: part.to_owned(), expected, found: found.to_string() })
    }

    /// The content of the special token `key`, which the class requires.
    fn required(&self, side: &Side, key: &str) -> Result<String, TokenizeError> {
        let default = self.defaults(&Value::Null).into_iter().find(|(name, _)| *name == key).map(|(_, token)| token);
        let token = if side.is_null(key) { None } else { side.token(key)?.or(default) };
        let missing = || file(side.path())(format!("{key} is null, but {} requires one", self.name));
        token.map(|token| token.content().to_owned()).ok_or_else(missing)
    }

    /// The post-processor, which puts special tokens around texts; `None` if the file's own is used. `id` returns a token's id.
    ///
    /// # Errors
    /// A special token that the class requires is null or is not in the vocabulary.
    pub(super) fn frame(
        &self,
        side: &Side,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Option<PostProcessorWrapper>, TokenizeError> {
        let named = |key| {
            let token = self.required(side, key)?;
            let unknown = || file(side.path())(format!("{key} {token:?} is not in the vocabulary"));
            let id = id(&token).ok_or_else(unknown)?;
            Ok::<_, TokenizeError>((token, id))
        };
        let frame = match self.rules {
            Rules::File => return Ok(None),
            Rules::Bert | Rules::DebertaV2 => template([&named("cls_token")?, &named("sep_token")?], false, 1),
            Rules::XlmRoberta => template([&named("bos_token")?, &named("eos_token")?], true, 0),
            Rules::MpNet | Rules::Roberta => {
                let prefix = self.rules == Rules::Roberta && side.get::<bool>("add_prefix_space")?.unwrap_or(false);
                json!({"type": "RobertaProcessing", "sep": named("sep_token")?, "cls": named("cls_token")?, "trim_offsets": true,
                       "add_prefix_space": prefix})
            }
        };
        serde_json::from_value(frame).map(Some).map_err(file(side.path()))
    }
}

/// The post-processor for `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`. If `twice` is true, there are two `[SEP]` between `a` and `b`.
pub(crate) fn template([first, last]: [&(String, u32); 2], twice: bool, second_segment: u32) -> Value {
    let special = |(token, _): &(String, u32), segment: u32| json!({"SpecialToken": {"id": token, "type_id": segment}});
    let text = |id: &str, segment: u32| json!({"Sequence": {"id": id, "type_id": segment}});
    let mut pair = vec![special(first, 0), text("A", 0), special(last, 0)];
    if twice {
        pair.push(special(last, 0));
    }
    pair.extend([text("B", second_segment), special(last, second_segment)]);
    let tokens: Map<String, Value> = [first, last]
        .into_iter()
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": [special(first, 0), text("A", 0), special(last, 0)], "pair": pair,
           "special_tokens": tokens})
}

/// The steps of a normaliser or a pre-tokenizer, which may be a sequence, a single step, or null.
fn sequence(part: &Value, steps: &str) -> Vec<Value> {
    match part {
        Value::Null => Vec::new(),
        part if part["type"] == "Sequence" => part[steps].as_array().cloned().unwrap_or_default(),
        only => vec![only.clone()],
    }
}

/// Sets whether and when `Metaspace` puts a space before a text.
fn prepend(split: &mut Value, scheme: &str) {
    let mut all = sequence(split, "pretokenizers");
    for step in all.iter_mut().filter(|step| step["type"] == "Metaspace") {
        if let Some(step) = step.as_object_mut() {
            step.remove("add_prefix_space");
            step.insert("prepend_scheme".to_owned(), json!(scheme));
        }
    }
    *split = json!({"type": "Sequence", "pretokenizers": all});
}
