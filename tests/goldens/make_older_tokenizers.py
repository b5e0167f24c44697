#!/usr/bin/env python3
"""Makes `older_tokenizers/`: ids by `transformers` of tokenizers that have older files instead of a `tokenizer.json`.

    pip install transformers==5.24.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf
    python tests/goldens/make_older_tokenizers.py          rewrites tests/goldens/older_tokenizers; two runs give equal bytes

A case is the `config.json` of a base of the goldens, whose keys `config` changes, with the files `copies` of the goldens and the files
`files` beside it. `answers` are [text, pair, ids, type_ids]; type ids are zeros where `transformers` gives the model none. The
SentencePiece model has the special pieces of XLM-R's, and no table of characters, which keeps it small.
"""
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

# The name of a file here is that of a module of the standard library, which this folder would hide.
HERE = Path(__file__).resolve().parent
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

import sentencepiece  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

transformers.logging.set_verbosity_error()

OUT = HERE / "older_tokenizers"
TEXTS = [
    ("The PLOT is Good", None), ("a good film", "the plot is bad"), ("great café naïve", None), ("film 日本 the 語 plot", None),
    ("good [MASK] film [SEP] bad", None), ("good <mask> film</s> bad", None), ("good<mask>film  ", "  two  spaces"),
    ("a bad <ent> film", None), ("movies storyline", ""),
]  # fmt: skip

WORD_PIECE = {"vocab.txt": "legacy/bert/vocab.txt"}
BYTE_LEVEL = {"vocab.json": "legacy/roberta/vocab.json", "merges.txt": "legacy/roberta/merges.txt"}
UNIGRAM = {"sentencepiece.bpe.model": "older_tokenizers/sentencepiece.bpe.model"}
MASK = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}


def cases():
    def case(name, base, copies, settings=None, config=None, **files):
        files = {f"{key}.json": value for key, value in files.items()}
        if settings is not None:
            files["tokenizer_config.json"] = settings
        return {"name": name, "base": base, "config": config or {}, "copies": copies, "files": files}

    def named(name):
        return {"tokenizer_class": name}

    ROBERTA, DEBERTA, XLM = (f"encoders/{name}" for name in ("roberta", "deberta", "xlm-roberta"))
    yield case("BERT", "bert", WORD_PIECE)
    yield case("RoBERTa", ROBERTA, BYTE_LEVEL)
    yield case("XLM-R", XLM, UNIGRAM)
    # RoBERTa's mask includes the space before it only if a file says so.
    yield case("RoBERTa by name", ROBERTA, BYTE_LEVEL, named("RobertaTokenizer"))
    yield case("a mask of the settings", ROBERTA, BYTE_LEVEL, {"mask_token": {"__type": "AddedToken", **MASK}})
    yield case("a mask of the map", ROBERTA, BYTE_LEVEL, special_tokens_map={"mask_token": MASK})
    # A class that is not the architecture's own, as klue/roberta-base has it, some Chinese DeBERTas, or
    # microsoft/Multilingual-MiniLM-L12-H384, which is a BERT with XLM-R's tokenizer.
    for base in (ROBERTA, DEBERTA, XLM, "encoders/mpnet"):
        yield case(f"BERT's tokenizer in {base}", base, WORD_PIECE, named("BertTokenizer"))
        yield case(f"BERT's tokenizer in {base}, by config.json", base, WORD_PIECE, config=named("BertTokenizer"))
    yield case("BERT's tokenizer over that of config.json", ROBERTA, WORD_PIECE, named("BertTokenizerFast"), named("RobertaTokenizer"))
    yield case("no class in the settings", ROBERTA, WORD_PIECE, named(None), named("BertTokenizer"))
    yield case("a cased BERT's tokenizer", ROBERTA, WORD_PIECE, named("BertTokenizer") | {"do_lower_case": False})
    yield case("added tokens of BERT's tokenizer", ROBERTA, WORD_PIECE, named("BertTokenizer"), added_tokens={"<ent>": 117})
    yield case("DistilBERT's tokenizer in BERT", "bert", WORD_PIECE, named("DistilBertTokenizer"))
    yield case("BERT's tokenizer in DistilBERT", "encoders/distilbert", WORD_PIECE)
    yield case("ELECTRA's tokenizer", "encoders/electra", WORD_PIECE, named("ElectraTokenizer"))
    for base in ("bert", DEBERTA):
        yield case(f"XLM-R's tokenizer in {base}", base, UNIGRAM, named("XLMRobertaTokenizer"))
        yield case(f"XLM-R's tokenizer in {base}, by config.json", base, UNIGRAM, config=named("XLMRobertaTokenizer"))
        yield case(f"RoBERTa's tokenizer in {base}", base, BYTE_LEVEL, named("RobertaTokenizerFast"))
    # All files are there, and the class decides which ones are read.
    for name in ("BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"):
        yield case(f"{name} among all files", "bert", WORD_PIECE | BYTE_LEVEL | UNIGRAM, named(name))


def answers(case):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = json.loads((HERE / case["base"] / "config.json").read_text()) | case["config"]
        (folder / "config.json").write_text(json.dumps(config))
        for name, source in case["copies"].items():
            shutil.copy(HERE / source, folder / name)
        for name, value in case["files"].items():
            (folder / name).write_text(json.dumps(value))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = []
        for text, pair in TEXTS:
            # As a batch of one: called with a lone string, `transformers` takes an empty second text for none.
            encoded = tokenizer([text], None if pair is None else [pair])
            ids = encoded["input_ids"][0]
            rows.append([text, pair, ids, encoded.get("token_type_ids", [[0] * len(ids)])[0]])
        return rows


def train():
    sentences = [word for text, pair in TEXTS[:4] for word in f"{text} {pair or ''}".split()] * 3
    sentences += [f"the {noun} of the film is {word}" for noun in ("plot", "end", "cast") for word in ("good", "bad", "great", "boring")]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=60, model_type="unigram", character_coverage=1.0,
        normalization_rule_name="identity", minloglevel=2, hard_vocab_limit=False, num_threads=1)  # fmt: skip
    (OUT / "sentencepiece.bpe.model").write_bytes(model.getvalue())


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    train()
    made = [case | {"answers": answers(case)} for case in cases()]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made)
    (OUT / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(len(made), "cases")


if __name__ == "__main__":
    main()
