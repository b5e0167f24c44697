#!/usr/bin/env python3
"""Compares `polyrank classify` with `transformers` + PEFT on the same adapter folder and the same texts.

    peft_parity.py BINARY_DIR MODEL_DIR ADAPTER_DIR INPUT_TSV [--limit N]

INPUT_TSV is a data file (a header with `sentence`, or `sentence1` and `sentence2`; `text` and `text_pair` are accepted), or
plain lines of text where the first line names no such column. Scores are turned back into differences of logits, which must agree to 1e-4.
Prints one line; exits with 1 where they do not agree.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import peft_goldens as goldens
from peft import PeftModel
from safetensors import safe_open

TOLERANCE = 1e-4
F32_ROUNDING = 6e-8  # half a unit in the last place of a score near 1


def read_texts(lines):
    """(text, pair or None) of each line."""
    header = lines[0].split("\t")
    text = next((header.index(name) for name in ("sentence", "sentence1", "text") if name in header), None)
    pair = next((header.index(name) for name in ("sentence2", "text_pair") if name in header), None)
    if text is None:
        return [(line, None) for line in lines]
    rows = [line.split("\t") for line in lines[1:]]
    return [(row[text], None if pair is None else row[pair]) for row in rows]


def head_and_kind(adapter):
    """The labels, and what turns logits into scores: softmax, sigmoid or the value itself, as the `transformers` pipeline."""
    path = adapter / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    if "id2label" in config:
        labels = [label for _, label in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    else:
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            heads = [key for key in file.keys() if key.endswith(("classifier.bias", "out_proj.bias"))]
            labels = [f"LABEL_{i}" for i in range(file.get_slice(heads[0]).get_shape()[0])]
    problem = config.get("problem_type")
    if problem == "regression":
        return labels, "value"
    if problem == "multi_label_classification" or (problem is None and len(labels) == 1):
        return labels, "sigmoid"
    return labels, "softmax"


def reference(model, adapter, labels, rows):
    """Logits of PEFT, f64 of an f32 run."""
    peft = PeftModel.from_pretrained(goldens.load_base(model, labels), adapter).eval()
    return [row.double() for row in goldens.logits(peft, rows)]


def ours(binary, model, adapter, source):
    """What `polyrank classify` prints, one value a line."""
    command = [binary / "polyrank", "classify", "--model-id", model, "--adapter", adapter, "--input", source]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def difference(logits, scores, kind):
    """The largest difference of logits that rounding of the scores to f32 does not explain."""
    if kind == "value":
        return max(abs(want - got) / max(1.0, abs(want)) for want, got in zip(logits, scores))
    if kind == "sigmoid":
        clamped = [min(max(p, 1e-38), 1 - F32_ROUNDING) for p in scores]
        pairs = [(math.log(p) - math.log1p(-p), F32_ROUNDING / (p * (1 - p))) for p in clamped]
        wants = logits
    else:  # softmax: against the best, whose score is never small
        best = max(range(len(logits)), key=logits.__getitem__)
        pairs = [(math.log(max(p, 1e-38) / scores[best]), 2 * F32_ROUNDING) for p in scores]
        wants = [value - logits[best] for value in logits]
    return max(max(0.0, abs(want - got) - slack) for want, (got, slack) in zip(wants, pairs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("binary", "model", "adapter", "input"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--limit", type=int, help="the first N lines only")
    args = parser.parse_args()

    lines = args.input.read_text(encoding="utf-8").rstrip("\n").split("\n")
    if args.limit is not None:
        lines = lines[: args.limit]
    texts = read_texts(lines)
    rows = goldens.encode_all(args.model, texts)
    labels, kind = head_and_kind(args.adapter)
    wants = reference(args.model, args.adapter, len(labels), rows)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / args.input.name
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        answers = ours(args.binary, args.model, args.adapter, source)
    if len(answers) != len(texts):
        sys.exit(f"{args.adapter}: {len(answers)} answers to {len(texts)} texts")

    worst = (0.0, 0)
    for i, (want, answer) in enumerate(zip(wants, answers)):
        if (answer["text"], answer.get("text_pair")) != texts[i]:
            sys.exit(f"{args.adapter}: answer {i} is to {answer['text']!r}, expected {texts[i]!r}")
        scores = {entry["label"]: entry["score"] for entry in answer["labels"]}
        if sorted(scores) != sorted(labels):
            sys.exit(f"{args.adapter}: answer {i} has labels {sorted(scores)}, expected {sorted(labels)}")
        worst = max(worst, (difference(want.tolist(), [scores[label] for label in labels], kind), i))
    verdict = "agree" if worst[0] <= TOLERANCE else "DIFFER"
    found = f"worst logit difference {worst[0]:.2e} at text {worst[1]}"
    print(f"{args.adapter}: {len(texts)} texts, {len(labels)} labels ({kind}), {found}: {verdict}")
    sys.exit(verdict != "agree")


if __name__ == "__main__":
    main()
