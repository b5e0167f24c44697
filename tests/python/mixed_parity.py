#!/usr/bin/env python3
"""Compares the server at POLYRANK_URL with what `random_adapters.py` (or `peft_goldens.py`) wrote of `transformers` + PEFT.

    mixed_parity.py expected.json [--tolerance 1e-4]

Every adapter is asked for every text twice: all at once from many threads, so that adapters and texts of all lengths meet in
one forward pass, and one by one. Logits are compared by value. Those listed as refused must be, by the name of the key.
"""
import argparse
import json
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Adapters asked at the same time: many for a batch, few enough that the last is answered before a request times out.
MOST_AT_ONCE = 16


def logits(url, adapter, texts):
    """The raw scores of each text, in order of size: a label's name may come twice."""
    inputs = [{"text": text["text"], "text_pair": text.get("text_pair")} for text in texts]
    body = json.dumps({"inputs": inputs, "parameters": {"function_to_apply": "none"}}).encode()
    request = urllib.request.Request(f"{url}/classify/{adapter}", body, {"content-type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=300))
    assert len(answer) == len(texts), f"{adapter}: {len(answer)} answers to {len(texts)} texts"
    return [[entry["score"] for entry in entries] for entries in answer]


def worst(found, expected):
    """The largest difference; both are lists of lists, the expected ones not sorted yet."""
    assert len(found) == len(expected)
    differences = [0.0]
    for ours, theirs in zip(found, expected):
        assert len(ours) == len(theirs), f"{len(ours)} labels, expected {len(theirs)}"
        differences += [abs(a - b) for a, b in zip(ours, sorted(theirs, reverse=True))]
    return max(differences)


def refusal(url, adapter, text):
    """Status and error of a text asked of `adapter`."""
    body = json.dumps({"inputs": text["text"] or "a text"}).encode()
    request = urllib.request.Request(f"{url}/classify/{adapter}", body, {"content-type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=300)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]
    return 200, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expected", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    url = os.environ["POLYRANK_URL"].rstrip("/")
    expected = json.loads(args.expected.read_text())
    texts, answers = expected["texts"], {name: answer["logits"] for name, answer in expected["adapters"].items()}
    assert answers, "no adapters to compare"
    with ThreadPoolExecutor(min(len(answers), MOST_AT_ONCE)) as pool:
        mixed = dict(zip(answers, pool.map(lambda name: logits(url, name, texts), answers)))
    together, alone = {}, {}
    for name, logits_of in answers.items():
        together[name] = worst(mixed[name], logits_of)
        alone[name] = max(worst(logits(url, name, [text]), [row]) for text, row in zip(texts, logits_of))
    for kind, found in (("packed and mixed", together), ("alone", alone)):
        print(f"{len(found)} adapters x {len(texts)} texts {kind}: largest difference {max(found.values()):.2e}")
        bad = {name: value for name, value in found.items() if value > args.tolerance}
        assert not bad, f"above {args.tolerance}: {bad}"
    for name, key in expected.get("refused", {}).items():
        status, error = refusal(url, name, texts[0])
        assert status == 422 and key in error, f"{name}: expected a refusal that names {key}, found {status} {error!r}"
    print(f"{len(expected.get('refused', {}))} adapters of variants that are not served refused by name")


if __name__ == "__main__":
    main()
