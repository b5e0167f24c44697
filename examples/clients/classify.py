#!/usr/bin/env python3
"""Classifies a text through Hugging Face's client and through plain requests.

    classify.py URL TEXT ADAPTER...        POLYRANK_API_KEY is sent if it is set

Needs the packages huggingface_hub and requests.
"""
import json
import os
import sys
from urllib.parse import quote

import requests
from huggingface_hub import InferenceClient


def main():
    if len(sys.argv) < 4:
        print(__doc__.strip(), file=sys.stderr)
        sys.exit(2)
    url, text, *adapters = sys.argv[1:]
    key = os.environ.get("POLYRANK_API_KEY")

    # One adapter: the client posts to the address of the adapter. Without a key, it would send the user's token of the hub.
    headers = {} if key else {"authorization": None}
    client = InferenceClient(model=f"{url}/classify/{quote(adapters[0])}", token=key, headers=headers)
    labels = client.text_classification(text, top_k=1)
    print(json.dumps([{"label": entry.label, "score": entry.score} for entry in labels]))

    # Several adapters in one request, which costs less than one request each.
    answer = requests.post(
        f"{url}/classify",
        json={"inputs": text, "adapters": adapters},
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=30,
    )
    if not answer.ok:
        sys.exit(f"{answer.status_code} {answer.reason}: {answer.text}")
    print(json.dumps(answer.json()))


if __name__ == "__main__":
    main()
