#!/usr/bin/env python3
"""Tokenized tasks, and a base in int8 with a scale for each row, small enough to be carried to a GPU: what trial.py reads.

    prepare.py BASE DATA OUTPUT TASK...        BASE: a folder with model.safetensors; TASK: a folder of DATA/glue or DATA/tasks; `task:N` takes the
                                               first N rows of train. Without a validation file a tenth of train is held out (seed 0).
"""
import os
import random
import shutil
import sys

import numpy as np
from safetensors.numpy import load_file
from transformers import AutoTokenizer

base, data, output, *tasks = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
os.makedirs(output, exist_ok=True)
used = set()


def read(path):
    rows = [line.rstrip("\n").split("\t") for line in open(path, encoding="utf-8")][1:]
    return [(row[1:], float(row[0])) for row in rows]


def encoded(name, rows):
    texts = [text for text, _ in rows]
    pairs = [text[1] for text in texts] if len(texts[0]) > 1 else None
    batch = tokenizer([text[0] for text in texts], pairs, truncation=True, max_length=128, return_token_type_ids=True)
    lengths = [len(ids) for ids in batch["input_ids"]]
    ids, types = np.zeros((len(rows), max(lengths)), np.int32), np.zeros((len(rows), max(lengths)), np.int8)
    for i, length in enumerate(lengths):
        ids[i, :length], types[i, :length] = batch["input_ids"][i], batch["token_type_ids"][i]
        used.update(batch["input_ids"][i])
    labels = np.array([label for _, label in rows], np.float32)
    return {f"{name}_ids": ids, f"{name}_ty": types, f"{name}_n": np.array(lengths, np.int32), f"{name}_y": labels}


for task in tasks:
    name, _, rows = task.partition(":")
    folder = next(f"{data}/{group}/{name}" for group in ("glue", "tasks") if os.path.isdir(f"{data}/{group}/{name}"))
    train = read(f"{folder}/train.tsv")[: int(rows) if rows else None]
    if os.path.exists(f"{folder}/validation.tsv"):
        held = read(f"{folder}/validation.tsv")
    else:
        order = list(range(len(train)))
        random.Random(0).shuffle(order)
        cut = len(train) // 10
        train, held = [train[i] for i in order[cut:]], [train[i] for i in order[:cut]]
    splits = {"train": train, "val": held}
    if os.path.exists(f"{folder}/test.tsv"):
        splits["test"] = read(f"{folder}/test.tsv")
    arrays = {key: value for split, rows in splits.items() for key, value in encoded(split, rows).items()}
    np.savez_compressed(f"{output}/{name}.npz", **arrays)

stored = {}
for name, tensor in load_file(f"{base}/model.safetensors").items():
    if tensor.dtype != np.float32:
        continue
    if name.endswith("word_embeddings.weight"):
        tensor[[row for row in range(len(tensor)) if row not in used]] = 0
    if tensor.ndim == 2 and len(tensor) > 64 and "position" not in name:
        scale = np.abs(tensor).max(1) / 127
        scale[scale == 0] = 1
        stored[name], stored[f"{name}|scale"] = np.round(tensor / scale[:, None]).astype(np.int8), scale.astype(np.float16)
    else:
        stored[name] = tensor.astype(np.float16)
np.savez(f"{output}/base.npz", **stored)
shutil.copy(f"{base}/config.json", output)
