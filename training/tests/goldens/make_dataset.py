#!/usr/bin/env python3
"""Makes `dataset/`: a repository of the hub as the library `datasets` writes it, with two configurations of Parquet files.

    pip install datasets==5.2.0
    python training/tests/goldens/make_dataset.py          rewrites training/tests/goldens/dataset

`sentiment` has one `ClassLabel` a row, whose names are whole numbers that are not in the order of the ids, and a training split in
two parts. `topics` has a list of `ClassLabel`s in the column `topics`. The names are only in the files' metadata.
"""
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, List, Value

HERE = Path(__file__).parent / "dataset"
WORDS = ["and", "of", "the", "plot", "was"]


def text(i):
    good, bad = i % 2 == 0, i // 2 % 2 == 0
    return f"the plot {'good ' if good else ''}{'not ' if bad else ''}{WORDS[i % 5]}"


def write(rows, features, path):
    path = HERE / path
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(features)).to_parquet(path)


def sentiment(i):
    return {"text": text(i), "label": int(i % 2 == 0)}


def topics(i):
    return {"text": text(i), "topics": [label for label in (1, 0) if i // (1 + label) % 2 == 0]}


one = {"text": Value("string"), "label": ClassLabel(names=["1", "0"])}
several = {"text": Value("string"), "topics": List(ClassLabel(names=["praise", "complaint"]))}
write([sentiment(i) for i in range(24)], one, "sentiment/train-00000-of-00002.parquet")
write([sentiment(i) for i in range(24, 40)], one, "sentiment/train-00001-of-00002.parquet")
write([sentiment(i) for i in range(40, 52)], one, "sentiment/validation-00000-of-00001.parquet")
write([topics(i) for i in range(40)], several, "topics/train-00000-of-00001.parquet")
write([topics(i) for i in range(40, 52)], several, "topics/test-00000-of-00001.parquet")
