#!/usr/bin/env python3
"""Makes `side_files.json`: ids by `transformers` of tokenizers whose folders hold more than `tokenizer.json`.

    pip install -r tests/python/requirements.txt
    python tests/goldens/make_side_files.py          rewrites tests/goldens/side_files.json; two runs give equal bytes

Made with transformers 5.24.0, tokenizers 0.23.3. A case is a base of the goldens, whose `tokenizer.json` is edited (`edits`, by JSON
pointers) and gets other files beside it (`files`; null is a file that is not there). `answers` are [text, pair, ids, type_ids]; type
ids are zeros where `transformers` gives the model none. `cut` is a `max_length` for all texts.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

# The name of a file here is that of a module of the standard library, which this folder would hide.
HERE = Path(__file__).resolve().parent
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

import transformers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

transformers.logging.set_verbosity_error()

TEXTS = [
    ("The PLOT is Good", None), ("a good film", "the plot is bad"), ("a bad <ent> film", None), ("a bad<ent>film  <ENT> best", None),
    ("great café ÉCLAIR naïve", None), ("film 日本 the 語 plot", None), ("[CLS] the [SEP] good [MASK] <mask> </s> [UNK]", None),
    ("  two  spaces and <new>  <one> plots ", "is <one>not ever"), ("movies storyline", "ever plotted"),
]  # fmt: skip


def token(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False} | flags


def settings(name, **keys):
    """The `tokenizer_config.json` of a base, changed; a key that is None is left out."""
    own = json.loads((HERE / name / "tokenizer_config.json").read_text())
    return {key: value for key, value in (own | keys).items() if value is not None}


def bert(**keys):
    return {"tokenizer_config.json": settings("bert", **keys)}


NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
CASED = {"/normalizer": NORMALIZER | {"lowercase": False}}
ENTITY = {"117": token("<ent>")}
PLAIN = "PreTrainedTokenizerFast"
DISTIL, ELECTRA, MPNET, ROBERTA = (f"encoders/{name}" for name in ("distilbert", "electra", "mpnet", "roberta"))
DEBERTA, XLM = "encoders/deberta", "encoders/xlm-roberta"
SPACES = {"type": "Replace", "pattern": {"Regex": "\\s{2,}|[\\n\\r\\t]"}, "content": " "}
DEBERTA_FILE = {
    "/normalizer": {"type": "Sequence", "normalizers": [SPACES, {"type": "NFC"}, {"type": "Strip", "strip_left": False, "strip_right": True}]},
    "/pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
}  # fmt: skip
XLM_FILE = {
    "/normalizer": None,
    "/pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
}  # fmt: skip
# What older releases made of a SentencePiece model.
OLD_XLM_FILE = {
    "/normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
    "/pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
}  # fmt: skip


def cases():
    def case(name, base, files, edits=None, **more):
        return {"name": name, "base": base, "edits": edits or {}, "files": files} | more

    # Normalisers.
    yield case("as the file has it", "bert", bert())
    yield case("cased by the file, lower by default", "bert", bert(do_lower_case=None), CASED)
    yield case("no settings at all", "bert", {"tokenizer_config.json": None}, CASED)
    for key, values in {"do_lower_case": [False], "strip_accents": [True, False], "tokenize_chinese_chars": [False]}.items():
        for value in values:
            yield case(f"{key} {value}", "bert", bert(**{key: value}))
            yield case(f"{key} {value} of DistilBERT", DISTIL, {
                "tokenizer_config.json": settings(DISTIL, tokenizer_class="DistilBertTokenizerFast", model_input_names=None, **{key: value})})
            yield case(f"{key} {value} of ELECTRA", ELECTRA, {
                "tokenizer_config.json": settings(ELECTRA, tokenizer_class="ElectraTokenizer", model_input_names=None, **{key: value})})
            yield case(f"{key} {value} of MPNet", MPNET, {"tokenizer_config.json": settings(MPNET, **{key: value})})
            yield case(f"{key} {value} of no class", "bert", bert(tokenizer_class=PLAIN, **{key: value}))
    yield case("no class by name", "bert", bert(tokenizer_class="OwnTokenizer", do_lower_case=False))
    yield case("strip without lower", "bert", bert(do_lower_case=False, strip_accents=True))
    yield case("a class of the model's configuration", "bert", {
        "tokenizer_config.json": {"do_lower_case": False}, "config.json": {"model_type": "bert", "tokenizer_class": PLAIN}})
    yield case("DistilBERT without a class", DISTIL, {"tokenizer_config.json": {"do_lower_case": False}})
    # ModernBERT has no class of its own, whatever its settings say.
    yield case("ModernBERT", "encoders/modernbert", {
        "tokenizer_config.json": settings("encoders/modernbert", tokenizer_class="BertTokenizer", do_lower_case=False)})
    for value in (True, False):
        yield case(f"add_prefix_space {value}", ROBERTA, {"tokenizer_config.json": settings(ROBERTA, add_prefix_space=value)})
        yield case(f"add_prefix_space {value} against the file", ROBERTA, {
            "tokenizer_config.json": settings(ROBERTA, add_prefix_space=value)},
            {"/pre_tokenizer/add_prefix_space": not value, "/post_processor/add_prefix_space": not value})  # fmt: skip
        yield case(f"add_prefix_space {value} of no class", ROBERTA, {
            "tokenizer_config.json": settings(ROBERTA, tokenizer_class=PLAIN, add_prefix_space=value)})
        yield case(f"DeBERTa, do_lower_case {value}", DEBERTA, {
            "tokenizer_config.json": settings(DEBERTA, tokenizer_class="DebertaV2Tokenizer", do_lower_case=value)}, DEBERTA_FILE)
        yield case(f"DeBERTa, split_by_punct {value}", DEBERTA, {
            "tokenizer_config.json": settings(DEBERTA, tokenizer_class="DebertaV2TokenizerFast", split_by_punct=value)}, DEBERTA_FILE)
        yield case(f"DeBERTa, add_prefix_space {value}", DEBERTA, {
            "tokenizer_config.json": settings(DEBERTA, tokenizer_class="DebertaV2TokenizerFast", add_prefix_space=value)}, DEBERTA_FILE)
        yield case(f"XLM-R, add_prefix_space {value}", XLM, {
            "tokenizer_config.json": settings(XLM, tokenizer_class="XLMRobertaTokenizer", add_prefix_space=value)}, XLM_FILE)
    for value in (None, True, False):
        yield case(f"XLM-R of an older release, add_prefix_space {value}", XLM, {
            "tokenizer_config.json": settings(XLM, tokenizer_class="XLMRobertaTokenizer", add_prefix_space=value)}, OLD_XLM_FILE)
    lower = dict(DEBERTA_FILE)
    lower["/normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *DEBERTA_FILE["/normalizer"]["normalizers"]]}
    yield case("DeBERTa, no longer lower", DEBERTA, {
        "tokenizer_config.json": settings(DEBERTA, tokenizer_class="DebertaV2Tokenizer", do_lower_case=False)}, lower)

    # Added tokens.
    yield case("added_tokens.json", "bert", bert() | {"added_tokens.json": {"<ent>": 117, "<new>": 118}})
    yield case("added_tokens.json out of order", "bert", bert() | {"added_tokens.json": {"<new>": 300, "<ent>": 200}})
    yield case("added_tokens.json of a word", "bert", bert() | {"added_tokens.json": {"film": 86, "plots": 117}})
    yield case("added_tokens.json that lists specials", "bert", bert(additional_special_tokens=["<ent>"]) | {
        "added_tokens.json": {"<ent>": 117, "<ENT>": 118}})
    for flags in ({}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True},
                  {"normalized": False}, {"special": True}, {"special": True, "normalized": False}):  # fmt: skip
        yield case(f"added_tokens_decoder {flags}", "bert", bert(added_tokens_decoder={"117": token("<ent>", **flags)}))
        yield case(f"added_tokens_decoder of no class {flags}", "bert", bert(
            tokenizer_class=PLAIN, added_tokens_decoder={"117": token("<ent>", **flags)}))
    yield case("added_tokens_decoder at other ids", "bert", bert(added_tokens_decoder={"200": token("<ent>"), "150": token("<new>")}))
    yield case("added_tokens_decoder of words", "bert", bert(added_tokens_decoder={"86": token("good"), "90": token("movie", single_word=True)}))
    yield case("added_tokens_decoder changes a flag", "bert", bert(
        tokenizer_class=PLAIN, added_tokens_decoder={"4": token("[MASK]", lstrip=True, special=True, normalized=False)}))
    yield case("added_tokens_decoder hides the others", "bert", bert(added_tokens_decoder=ENTITY) | {
        "added_tokens.json": {"<new>": 118}, "special_tokens_map.json": {"additional_special_tokens": ["<one>"]}})
    yield case("added_tokens_decoder empty", "bert", bert(added_tokens_decoder={}) | {"added_tokens.json": {"<new>": 117}})
    yield case("additional_special_tokens", "bert", bert(additional_special_tokens=["<ent>", "<one>"]))
    yield case("additional_special_tokens of the map", "bert", bert() | {"special_tokens_map.json": {"additional_special_tokens": ["<ent>"]}})
    yield case("extra_special_tokens", "bert", bert(extra_special_tokens=["<ent>", "<one>"]))
    yield case("extra_special_tokens by name", "bert", bert(extra_special_tokens={"entity_token": "<ent>", "one": "<one>"}))
    yield case("extra_special_tokens over additional ones", "bert", bert(extra_special_tokens=["<ent>"], additional_special_tokens=["<one>"]))
    yield case("extra_special_tokens of the map", "bert", bert(extra_special_tokens=["<one>"]) | {
        "special_tokens_map.json": {"extra_special_tokens": ["<ent>"]}})
    yield case("a token of its own name", "bert", bert(entity_token="<ent>"))
    yield case("typed tokens", "bert", bert(additional_special_tokens=[{"__type": "AddedToken", **token("<ent>", lstrip=True, special=True)}],
                                            mask_token={"__type": "AddedToken", **token("<mask>", lstrip=True, special=True)}))
    yield case("extra tokens by name and additional ones", "bert", bert(
        extra_special_tokens={"entity_token": "<ent>"}, additional_special_tokens=["<one>"]))
    yield case("one token with two sets of flags", "bert", bert(additional_special_tokens=[
        "<ent>", {"__type": "AddedToken", **token("<ent>", single_word=True, rstrip=True)}]))
    yield case("a typed token among added_tokens.json", DEBERTA, {"tokenizer_config.json": settings(
        DEBERTA, tokenizer_class="DebertaV2Tokenizer", cls_token={"__type": "AddedToken", **token("<new>")}),
        "added_tokens.json": {"<new>": 96}}, DEBERTA_FILE)  # fmt: skip
    yield case("a capital among MPNet's", MPNET, {"tokenizer_config.json": settings(MPNET, sep_token="É")})
    yield case("another cls_token", "bert", bert() | {"special_tokens_map.json": {"cls_token": "good", "sep_token": "film"}})
    yield case("another cls_token of the settings", "bert", bert(cls_token="good", sep_token="bad"))
    yield case("another cls_token of no class", "bert", bert(tokenizer_class=PLAIN, cls_token="good"))
    yield case("another unk_token", "bert", bert(unk_token="[MASK]"))
    yield case("a new mask_token", "bert", bert() | {"special_tokens_map.json": {"mask_token": token("<mask>", lstrip=True)}})
    yield case("a new pad_token", "bert", bert() | {"special_tokens_map.json": {"pad_token": "<new>"}})
    yield case("map over settings", "bert", bert(mask_token="<one>") | {"special_tokens_map.json": {"mask_token": "<new>"}})
    yield case("another cls_token of RoBERTa", ROBERTA, {"tokenizer_config.json": settings(ROBERTA, cls_token="<pad>", sep_token="<mask>")})
    yield case("added tokens of RoBERTa", ROBERTA, {
        "tokenizer_config.json": settings(ROBERTA), "added_tokens.json": {"<ent>": 300, "<new>": 301}})
    yield case("added tokens of MPNet", MPNET, {
        "tokenizer_config.json": settings(MPNET), "added_tokens.json": {"<ent>": 117}})
    yield case("the mask of MPNet's map", MPNET, {
        "tokenizer_config.json": settings(MPNET), "special_tokens_map.json": {"mask_token": "<new>"}})
    yield case("added tokens of DeBERTa", DEBERTA, {"tokenizer_config.json": settings(DEBERTA, tokenizer_class="DebertaV2Tokenizer"),
                                                    "added_tokens.json": {"<ent>": 96}}, DEBERTA_FILE)
    yield case("another cls_token of DeBERTa", DEBERTA, {"tokenizer_config.json": settings(
        DEBERTA, tokenizer_class="DebertaV2Tokenizer", cls_token="[MASK]")}, DEBERTA_FILE)
    yield case("added tokens of XLM-R", XLM, {"tokenizer_config.json": settings(XLM, tokenizer_class="XLMRobertaTokenizer"),
                                              "added_tokens.json": {"<ent>": 96}}, XLM_FILE)
    yield case("the file adds none", "bert", bert(), {"/added_tokens": []})
    yield case("the file adds its own", "bert", bert(), {"/added_tokens": [{"id": 3, **token("[SEP]", special=True, normalized=False)},
                                                                         {"id": 117, **token("<ent>")}]})
    yield case("specials are split", "bert", bert(split_special_tokens=True, additional_special_tokens=["<ent>"]))

    # Types, sides and frames.
    yield case("no type ids", "bert", bert(model_input_names=["input_ids", "attention_mask"]))
    yield case("no type ids of no class", "bert", bert(tokenizer_class=PLAIN, model_input_names=["input_ids", "attention_mask"]))
    yield case("type ids of no class", "bert", bert(tokenizer_class=PLAIN, model_input_names=["input_ids", "token_type_ids"]))
    yield case("no class, no names of inputs", "bert", bert(tokenizer_class=PLAIN))
    yield case("another frame in the file", "bert", bert(), {"/post_processor": None})
    yield case("another frame in the file, of no class", "bert", bert(tokenizer_class=PLAIN, cls_token=None, sep_token=None,
               model_input_names=["input_ids", "token_type_ids"]), {"/post_processor": None})  # fmt: skip
    yield case("bos and eos", "bert", bert(add_bos_token=True, add_eos_token=True))
    yield case("cut on the left", "bert", bert(truncation_side="left"), cut=6)
    yield case("cut on the left by the file", "bert", bert(), {"/truncation/direction": "Left"}, cut=6)
    yield case("cut on the right against the file", "bert", bert(truncation_side="right"), {"/truncation/direction": "Left"}, cut=6)
    yield case("padded on the left", "bert", bert(padding_side="left"), cut=6)


def pointed(whole, pointer, value):
    *way, last = pointer.strip("/").split("/")
    for key in way:
        whole = whole[key]
    whole[last] = value


def answers(case):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            shutil.copy(HERE / case["base"] / name, folder / name)
        whole = json.loads((folder / "tokenizer.json").read_text())
        for pointer, value in case["edits"].items():
            pointed(whole, pointer, value)
        (folder / "tokenizer.json").write_text(json.dumps(whole))
        for name, value in case["files"].items():
            if value is None:
                (folder / name).unlink()
            else:
                (folder / name).write_text(json.dumps(value))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = []
        for text, pair in TEXTS:
            cut = {"truncation": True, "max_length": case["cut"]} if "cut" in case else {}
            encoded = tokenizer([text], None if pair is None else [pair], **cut)
            ids = encoded["input_ids"][0]
            rows.append([text, pair, ids, encoded.get("token_type_ids", [[0] * len(ids)])[0]])
        return rows


def main():
    made = []
    for case in cases():
        try:
            made.append(case | {"answers": answers(case)})
        except Exception as error:
            print(case["name"], type(error), error)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made)
    (HERE / "side_files.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(len(made), "cases")


if __name__ == "__main__":
    main()
