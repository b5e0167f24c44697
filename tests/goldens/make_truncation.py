#!/usr/bin/env python3
"""Makes `truncation.json`: what `transformers` keeps of long texts and pairs, cut on the left and on the right, by many tokenizers.

    pip install transformers==5.24.0 tokenizers==0.23.3
    python tests/goldens/make_truncation.py          rewrites tests/goldens/truncation.json; two runs give equal bytes

`texts` are long enough that only their beginnings are tokenized if they are cut on the right. A case has a base of the goldens, the
side as `tokenizer_config.json` says it (null if it says none) and as `tokenizer.json` says it, the numbers of a text and of a second
text (null if there is none), and `max_length`. `kept` are the ids and the type ids; type ids are zeros where `transformers` gives the
model none.
"""
import json
import random
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

WORDS = "the plot of film is good bad great never boring storyline café 日本 42 it's [MASK] <mask> play-acting É".split()
BASES = ["bert", *(f"encoders/{name}" for name in ("distilbert", "roberta", "mpnet", "xlm-roberta", "deberta", "modernbert"))]
SIDES = [("right", "Right"), ("left", "Right"), (None, "Left"), ("right", "Left")]


def texts(rng):
    long = [" ".join(rng.choice(WORDS) for _ in range(count)) for count in (250, 251, 300)]
    return [*long, "日本語" * 200, " ".join(rng.choice(WORDS) for _ in range(7)), "the plot is good", "good", ""]


def opened(base, side, own):
    """The tokenizer of a base whose files state the side."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copy(HERE / base / "config.json", folder / "config.json")
        settings = json.loads((HERE / base / "tokenizer_config.json").read_text())
        if side is not None:
            settings["truncation_side"] = side
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        whole = json.loads((HERE / base / "tokenizer.json").read_text())
        whole["truncation"] = {"direction": own, "max_length": 128, "strategy": "LongestFirst", "stride": 0}
        (folder / "tokenizer.json").write_text(json.dumps(whole))
        return AutoTokenizer.from_pretrained(folder)


def main():
    rng = random.Random(0)
    all_texts = texts(rng)
    made = []
    for base in BASES:
        for side, own in SIDES:
            tokenizer = opened(base, side, own)
            pairs = [(0, None), (3, None), (0, 1), (2, 0), (0, 3), (4, 0), (0, 4), (5, 6), (6, 5), (0, 7), (7, 0)]
            for (first, second), length in [(pair, length) for pair in pairs for length in rng.sample(range(5, 21), 2)]:
                # As a batch of one: called with a lone string, `transformers` takes an empty second text for none.
                second_texts = None if second is None else [all_texts[second]]
                encoded = tokenizer([all_texts[first]], second_texts, truncation=True, max_length=length)
                ids = encoded["input_ids"][0]
                kept = [ids, encoded.get("token_type_ids", [[0] * len(ids)])[0]]
                made.append({"base": base, "sides": [side, own], "texts": [first, second], "max_length": length, "kept": kept})
    lines = ",\n".join(json.dumps(case) for case in made)
    texts_line = json.dumps(all_texts, ensure_ascii=False)
    (HERE / "truncation.json").write_text(f'{{"texts": {texts_line}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
    print(len(made), "cases")


if __name__ == "__main__":
    main()
