#!/usr/bin/env python3
"""polyrank beside its peers, on the same texts in the same run, as a table of ratios.

    peers.py POLYRANK MODEL_DIR ADAPTERS TEXTS [--rounds 2]

POLYRANK is the binary, MODEL_DIR the base's folder, ADAPTERS a folder of PEFT adapters of one number of labels (PEFT mixes no
others; those that differ are left out for all), TEXTS a text a line. Each round runs every engine once, so that a noisy machine
slows all alike; the medians over rounds are compared. Peers: PyTorch on the bare base sorted by length (batch 32), PyTorch + PEFT
with all adapters mixed in a batch (`adapter_names`), and both one text at a time.
"""
import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH = 32


def labels(adapter):
    with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
        return tensors.get_tensor("base_model.model.classifier.weight").shape[0]


def chosen(folder):
    """The largest set of adapters with one number of labels."""
    sizes = {}
    for config in sorted(folder.glob("*/adapter_config.json")):
        sizes.setdefault(labels(config.parent), []).append(config.parent)
    return max(sizes.items(), key=lambda item: len(item[1]))


class Torch:
    def __init__(self, base, count, adapters, threads):
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=count).eval()
        self.names = [path.name for path in adapters]
        if adapters:
            self.model = PeftModel.from_pretrained(self.model, adapters[0], adapter_name=self.names[0])
            for path in adapters[1:]:
                self.model.load_adapter(path, adapter_name=path.name)
            self.model.eval()

    def run(self, texts, batch, sort):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i])) if sort else range(len(texts))
        order = list(order)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                rows = order[start:start + batch]
                inputs = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
                mixed = {"adapter_names": [self.names[i % len(self.names)] for i in rows]} if self.names else {}
                self.model(**inputs, **mixed).logits.softmax(-1)


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def polyrank(binary, base, adapters, texts):
    command = [binary, "bench", "--model-id", base, "--adapters", adapters, "--input", texts, "--repeats", "1", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("polyrank", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("adapters", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    texts = args.texts.read_text().splitlines()
    count, adapters = chosen(args.adapters)
    seen = {}

    def note(name, value):
        seen.setdefault(name, []).append(value)
        print(f"  {name}: {value:.1f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for path in adapters:
            shutil.copytree(path, Path(folder) / path.name)
        bare, mixed = Torch(args.model, count, [], args.threads), Torch(args.model, count, adapters, args.threads)
        alone = texts[:100]
        for number in range(args.rounds):
            print(f"round {number + 1}")
            ours = polyrank(args.polyrank.resolve(), args.model, folder, args.texts)
            note("polyrank, texts a second", ours["texts_per_second"])
            note("polyrank, ms alone", ours["latency_ms"]["p50"])
            note("PyTorch bare and sorted, texts a second", len(texts) / timed(lambda: bare.run(texts, BATCH, True)))
            note("PyTorch + PEFT mixed, texts a second", len(texts) / timed(lambda: mixed.run(texts, BATCH, False)))
            times = [timed(lambda text=text: bare.run([text], 1, False)) for text in alone]
            note("PyTorch bare, ms alone", statistics.median(times) * 1e3)
    ours = {name: statistics.median(values) for name, values in seen.items()}
    print(f"\n{len(texts)} texts, {len(adapters)} adapters of {count} labels, medians of {args.rounds} rounds")
    print("| polyrank against | ratio |\n| --- | --- |")
    for peer in ["PyTorch bare and sorted", "PyTorch + PEFT mixed"]:
        print(f"| {peer}, throughput | {ours['polyrank, texts a second'] / ours[peer + ', texts a second']:.2f} |")
    print(f"| PyTorch bare, latency of one text | {ours['polyrank, ms alone'] / ours['PyTorch bare, ms alone']:.2f} |")


if __name__ == "__main__":
    main()
