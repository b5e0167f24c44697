#!/usr/bin/env python3
"""Makes `tokenize.json`: what `transformers` makes of texts and pairs with the tokenizer in `bert/`, cut to many lengths.

    pip install -r tests/python/requirements.txt
    python tests/goldens/make_tokenize.py          rewrites tests/goldens/tokenize.json; two runs give equal bytes

Made with transformers 5.23.0, tokenizers 0.23.3. A case is [side, text, pair, max_length, ids, type_ids]; `side` is the
tokenizer's `truncation_side`, `max_length` null means no truncation, and `pair` null means one text.
"""
import json
import random
import sys
from pathlib import Path

# This file's name is that of a module of the standard library, which its own folder would hide.
HERE = Path(__file__).resolve().parent
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

from transformers import AutoTokenizer  # noqa: E402

WORDS = "the good films boringly 42 x, great café ÉCLAIR 日本 play-acting".split()
TEXTS = ["", " ", "\t\n", "Good.", "ＦＵＬＬ width", "e\u0301t\u00e9", "a\u200bb\u00adc", "\u0000\ufffd!", "[SEP] [CLS][MASK] [sep]",
         "🙂👩‍👩‍👧 ok", "İstanbul ẞ ﬁlm", "مرحبا שלום", "한국어 日本語", "x" * 101, "good" * 30, "don't; it's… «so» — 3.14%"]


def cases(rng):
    def words(most):
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(most)))

    for text in TEXTS:
        yield "right", text, None, None
        yield "right", text, rng.choice(TEXTS), None
    for max_length in [3, 4, 5, 8, 13, 40]:
        yield "right", words(60), None, max_length
        yield "left", words(60), None, max_length
    # Pairs of every relation: shorter, longer, equal, both or either to be cut, odd and even room.
    for _ in range(90):
        yield rng.choice(["right", "right", "left"]), words(12), words(12), rng.randrange(4, 26)
    for length in [4, 5, 9, 10]:
        for max_length in [4, 5, 10, 11, 12, 13]:
            yield "right", "good " * length, "film " * length, max_length


def main():
    tokenizers = {side: AutoTokenizer.from_pretrained(HERE / "bert", truncation_side=side) for side in ["right", "left"]}
    made = []
    for side, text, pair, max_length in cases(random.Random(0)):
        # As a batch of one: called with a lone string, `transformers` takes an empty second text for none.
        pairs = None if pair is None else [pair]
        encoded = tokenizers[side]([text], pairs, truncation=max_length is not None, max_length=max_length)
        made.append([side, text, pair, max_length, encoded["input_ids"][0], encoded["token_type_ids"][0]])
    lines = ",\n".join(json.dumps(case) for case in made)
    (HERE / "tokenize.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
