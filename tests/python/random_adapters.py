#!/usr/bin/env python3
"""Writes N random PEFT adapters for any base, and what `transformers` + PEFT answer with them.

    random_adapters.py MODEL_DIR OUT N SEED

Ranks 1 to 16 and alphas differ from site to site, some sites are absent, heads have 1 to 20 labels, half use rsLoRA. Beside
the adapters lies `OUT/expected.json`, laid out as in `peft_goldens.py`.
"""
import argparse
import random
from pathlib import Path

import peft_goldens as goldens
import torch

TEXTS = [
    ("good", None),
    ("", None),
    ("The plot was not very good, but the acting was: a café in 東京, naïve & 100% charming!", None),
    ("It's a charming and often affecting journey.", None),
    ("How do I reset a forgotten password? " * 9, None),
    ("A man is playing a guitar.", "Someone plays an instrument on the stage."),
    ("The company said on Friday that sales rose 4.5 percent to $1.2 billion. " * 30, None),
    ("Sales rose. " * 150, "They did not, as the report of the second quarter shows. " * 60),
]
PROBLEMS = ["single_label_classification", None]


def settings(sites, rng):
    """Arguments of `LoraConfig`: each site is kept with a probability drawn once an adapter, one at least."""
    share = rng.uniform(0.2, 1.0)
    kept = [site for site in sites if rng.random() < share] or [rng.choice(sites)]
    return {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": kept,
        "use_rslora": rng.random() < 0.5,
        "rank_pattern": {site: rng.randint(1, 16) for site in kept},
        "alpha_pattern": {site: rng.randint(1, 32) for site in kept},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    modules = goldens.load_base(args.model, 2).named_modules()
    sites = [name for name, module in modules if isinstance(module, torch.nn.Linear) and ".encoder.layer." in name]
    rng = random.Random(args.seed)
    rows = goldens.encode_all(args.model, TEXTS)
    answers = {}
    for number in range(args.count):
        name, labels = f"random-{number}", rng.randint(1, 20)
        beside = goldens.names([f"label {i}" for i in range(labels)], rng.choice(PROBLEMS)) if labels > 1 else None
        goldens.make_adapter(args.model, args.out / name, labels, rng.randrange(2**31), settings(sites, rng), beside)
        answers[name] = goldens.answer(args.model, args.out / name, labels, rows)
    expected = {"max_length": goldens.max_length(args.model), "texts": rows, "adapters": answers}
    goldens.write_json(args.out / "expected.json", expected)
    print(f"{args.count} adapters in {args.out}")


if __name__ == "__main__":
    main()
