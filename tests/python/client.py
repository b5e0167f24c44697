#!/usr/bin/env python3
"""Asks the server at POLYRANK_URL through Hugging Face's own client: every adapter, each of the texts.

    client.py TEXT...          prints the labels of each text, best first

Fails where labels are not sorted, where `top_k` is not heeded, or where a softmax does not sum to 1.
"""
import argparse
import json
import math
import os
import urllib.request

from huggingface_hub import InferenceClient


def ask(url, adapter, text):
    client = InferenceClient(model=f"{url}/classify/{adapter}", headers={"authorization": None})
    labels = client.text_classification(text)
    scores = [entry.score for entry in labels]
    assert labels, "no labels"
    assert scores == sorted(scores, reverse=True), f"not sorted: {labels}"
    top = client.text_classification(text, top_k=1)
    assert [entry.label for entry in top] == [labels[0].label], f"top_k=1 gave {top}, all labels {labels}"
    many = client.text_classification(text, top_k=len(labels) + 5)
    assert len(many) == len(labels), f"top_k above the number of labels gave {len(many)} of {len(labels)}"
    softmax = client.text_classification(text, top_k=len(labels), function_to_apply="softmax")
    total = sum(entry.score for entry in softmax)
    assert math.isclose(total, 1.0, abs_tol=1e-4), f"softmax sums to {total}: {softmax}"
    print(f"{adapter}: {text!r}: " + ", ".join(f"{entry.label} {entry.score:.4f}" for entry in labels))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()
    url = os.environ["POLYRANK_URL"].rstrip("/")
    adapters = [adapter["name"] for adapter in json.load(urllib.request.urlopen(f"{url}/adapters"))]
    assert adapters, "the server has no adapters"
    for adapter in adapters:
        for text in args.texts:
            ask(url, adapter, text)


if __name__ == "__main__":
    main()
