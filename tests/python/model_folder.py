#!/usr/bin/env python3
"""Compares what `polyrank-train train --method full` (or bitfit) writes with `transformers` on the same texts.

    model_folder.py BINARY_DIR MODEL_DIR DATA_DIR

MODEL_DIR was trained as a regression on DATA_DIR, whose `validation.tsv` has the columns `label` and `sentence`. `transformers` must find
every tensor that it expects and no other, and the Pearson correlation of its outputs with the labels must be that of
`polyrank-train evaluate` to 1e-5. Prints one line; exits with 1 where they do not agree.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-5


def outputs(folder, texts):
    """The model's output for each text, alone in its batch."""
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        sys.exit(f"{folder}: missing {info['missing_keys']}, unexpected {info['unexpected_keys']}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [model.eval()(**tokenizer(text, return_tensors="pt")).logits[0, 0].item() for text in texts]


def main():
    binaries, folder, data = map(Path, sys.argv[1:])
    rows = [line.split("\t") for line in (data / "validation.tsv").read_text().splitlines()[1:]]
    theirs = np.corrcoef(outputs(folder, [text for _, text in rows]), [float(label) for label, _ in rows])[0, 1]
    command = [binaries / "polyrank-train", "evaluate", "--adapter", folder, "--data", data, "--json"]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["metrics"]["pearson"]
    print(f"{folder}: pearson {ours:.7f}, transformers {theirs:.7f}")
    sys.exit(0 if abs(ours - theirs) <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
