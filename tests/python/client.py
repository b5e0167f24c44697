#!/usr/bin/env python3
"""Asks a running server through Hugging Face's own client.

    client.py URL ADAPTER TEXT...          prints the labels of each text, best first

Fails where labels are not sorted, where `top_k` is not heeded, or where a softmax does not sum to 1.
"""
import argparse
import math

from huggingface_hub import InferenceClient


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://127.0.0.1:8080")
    parser.add_argument("adapter")
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()

    client = InferenceClient(model=f"{args.url.rstrip('/')}/classify/{args.adapter}")
    for text in args.texts:
        labels = client.text_classification(text)
        scores = [entry.score for entry in labels]
        assert labels, "no labels"
        assert scores == sorted(scores, reverse=True), f"not sorted: {labels}"
        top = client.text_classification(text, top_k=1)
        assert [entry.label for entry in top] == [labels[0].label], f"top_k=1 gave {top}, all labels {labels}"
        many = client.text_classification(text, top_k=len(labels) + 5)
        assert len(many) == len(labels), f"top_k above the number of labels gave {len(many)} of {len(labels)}"
        softmax = client.text_classification(text, top_k=len(labels), function_to_apply="softmax")
        assert math.isclose(sum(entry.score for entry in softmax), 1.0, abs_tol=1e-4), f"softmax does not sum to 1: {softmax}"
        print(f"{text!r}: " + ", ".join(f"{entry.label} {entry.score:.4f}" for entry in labels))


if __name__ == "__main__":
    main()
