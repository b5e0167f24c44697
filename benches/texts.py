#!/usr/bin/env python3
"""Texts to measure with, a text a line: shuffled, all different, of a given length on average.

    texts.py MODEL_DIR [DATA...] [--count 1024] [--tokens 24] [--seed 0] > texts.txt

DATA are TSV files as for training; by default SST-2 of `../shared/data`, or else the texts of `examples/data`. A text is
one to three of theirs, one after the other. It is taken if it draws the mean towards `--tokens`, counted by the tokenizer of
MODEL_DIR with special tokens. The same arguments give the same texts.
"""
import argparse
import random
from pathlib import Path

from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared/data/glue/sst2/train.tsv"
EXAMPLES = REPOSITORY / "examples/data/intent/train.tsv"


def read(path):
    """The texts of a TSV file; of pairs, both."""
    header, *rows = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    columns = [i for i, name in enumerate(header.split("\t")) if name.startswith(("sentence", "text"))]
    return [row.split("\t")[column].strip() for row in rows for column in columns]


def known():
    """The texts to draw from where nothing else is said."""
    return read(SHARED if SHARED.exists() else EXAMPLES)


def draw(texts, length, count, mean, seed):
    """`count` different texts out of `texts`, of `mean` tokens on average; `length(text)` counts them."""
    texts, rng = list(dict.fromkeys(texts)), random.Random(seed)
    drawn, tokens = {}, 0
    for _ in range(1000 * count):
        if len(drawn) == count:
            return list(drawn)
        text = " ".join(rng.sample(texts, rng.randint(1, 3)))
        size = length(text)
        longer_wanted = tokens <= mean * len(drawn)
        if text not in drawn and (size >= mean) == longer_wanted:
            drawn[text] = None
            tokens += size
    raise SystemExit(f"no {count} different texts of {mean} tokens in what was given")


def counter(model):
    """Counts a text's tokens, special ones included."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--tokens", type=float, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    texts = [text for path in args.data for text in read(path)] or known()
    print("\n".join(draw(texts, counter(args.model), args.count, args.tokens, args.seed)))


if __name__ == "__main__":
    main()
