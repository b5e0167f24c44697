"""Tokenizers trained over given texts, one for each way in which bases write theirs: shared by `tests/goldens/make_encoders.py`
(tiny ones) and `benches/shapes.py`. Each function gives the tokenizer and its settings for `tokenizer_config.json`; `made.save`
writes the `tokenizer.json`."""
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers


def byte_level(texts, size):
    """RoBERTa's: byte-level BPE, `<s> a </s></s> b </s>`."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))  # fmt: skip
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return made, {"tokenizer_class": "RobertaTokenizer", "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>",
                  "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}  # fmt: skip


def unigram(texts, size, names, single, pair):
    """A SentencePiece model: Unigram with metaspaces. `names` are the special tokens by role, in order of id."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(texts, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(names.values()), unk_token=names["unk_token"], show_progress=False))  # fmt: skip
    ends = [names["cls_token"], names["sep_token"]]
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, made.token_to_id(token)) for token in ends])  # fmt: skip
    return made, dict(names)


def xlm(texts, size):
    """XLM-R's: Unigram, `<s> a </s> </s> b </s>`."""
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    made, settings = unigram(texts, size, names, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return made, settings | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}


def deberta(texts, size):
    """DeBERTa-v2's and v3's: Unigram, `[CLS] a [SEP] b [SEP]`, with segments."""
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    made, settings = unigram(texts, size, names, "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")
    return made, settings | {"tokenizer_class": "PreTrainedTokenizerFast",
                             "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}  # fmt: skip
