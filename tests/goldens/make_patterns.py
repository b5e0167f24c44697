#!/usr/bin/env python3
"""What Python's `re` says of PEFT's rules: `patterns.json`, a list of {rule, pattern, names: {name: matches}}.

`key` is a key of `rank_pattern` or `alpha_pattern`, `whole` is `target_modules` as a string, `saved` an item of `modules_to_save`.
    usage: make_patterns.py > patterns.json
"""
import json
import re
import sys

NAMES = [
    "bert.encoder.layer.0.attention.self.query",
    "bert.encoder.layer.1.attention.self.query",
    "bert.encoder.layer.10.attention.self.query",
    "bert.encoder.layer.1.attention.self.query_proj",
    "bert.encoder.layer.1.attention.output.dense",
    "bert.encoder.layer.1.output.dense",
    "bert.encoder.layer.11.intermediate.dense",
    "deberta.encoder.layer.2.attention.self.value_proj",
    "model.layers.3.attn.Wqkv",
    "distilbert.transformer.layer.4.ffn.lin1",
    "bert.pooler.dense",
    "classifier",
    "classifier.out_proj",
    "query",
    "xquery",
]
PATTERNS = [
    "query", "dense", "output.dense", "attention.output.dense", "self.query", "layer.1.attention.self.query",
    "bert.encoder.layer.1.output.dense", "layer.1..output.dense", r"layer\.1\..*", r"layer\.\d+\.output\.dense", ".*", "",
    "(query|dense)", "query|dense", "que.y", "[qk]uery", r".*\.layer\.(0|1)\..*query", r"(?:.*\.)?dense", r"(?<!output\.)dense",
    r"(?<=self\.)query", r"layer\.(?!1\.)\d+\..*", r"^bert\..*dense$", "^query$", "dense$", r"\bquery\b", r"[^.]+\.dense",
    r"(?i)wQKV", r"(?P<part>attention)\.\w+\.dense", r"layer\.(\d)\1?\.", r"layer\.(\d)\1\..*", r".*lin[12]", r"\w+", r"[\w.]+",
    "xquery", "classifier", "classifier.out_proj", "pooler", r"output\s", "output",
]
RULES = {
    "key": lambda pattern, name: re.match(rf"(.*\.)?({pattern})$", name),
    "whole": lambda pattern, name: re.fullmatch(pattern, name),
    "saved": lambda pattern, name: re.match(rf"(^|.*\.){pattern}($|\..*)", name),
}


def main():
    table = []
    for rule, matches in RULES.items():
        for pattern in PATTERNS:
            try:
                names = {name: bool(matches(pattern, name)) for name in NAMES}
            except re.error:
                names = None  # refused
            table.append({"rule": rule, "pattern": pattern, "names": names})
    json.dump(table, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
