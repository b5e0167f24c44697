#!/usr/bin/env python3
"""Writes N random PEFT adapters for any base, and what `transformers` + PEFT answer with them.

    random_adapters.py MODEL_DIR OUT N SEED

Ranks 1 to 16 and alphas differ from site to site, some sites are absent, heads have 1 to 200 labels, half use rsLoRA; targets
are lists of sites, short names with layers, a regex, or all linears but some. Every tenth adapter is of a variant that is not
served. Beside the adapters lies `OUT/expected.json`, laid out as in `peft_goldens.py`, with `{"refused": {name: key}}`.
"""
import argparse
import random
import re
from pathlib import Path

import peft_goldens as goldens

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
PROBLEMS = ["single_label_classification", "multi_label_classification", None]

# What PEFT can write and nobody but PEFT serves: the setting, and the key that the refusal must name.
VARIANTS = [
    ({"use_dora": True}, "use_dora"),
    ({"lora_bias": True}, "lora_bias"),
    ({"bias": "lora_only"}, "bias"),
    ({"bias": "all"}, "bias"),
    ({"init_lora_weights": "olora"}, "init_lora_weights"),
    ({"trainable_token_indices": [5, 7]}, "trainable_token_indices"),
    ({"modules_to_save": ["classifier", "embeddings.LayerNorm"]}, "modules_to_save"),
]


def settings(sites, rng):
    """Arguments of `LoraConfig`, in one of the forms that PEFT takes targets in."""
    inside = [re.split(r"\.layers?\.", site)[1].split(".", 1) for site in sites]
    short = sorted({name for _, name in inside})
    layers = sorted({int(layer) for layer, _ in inside})
    some = lambda things: rng.sample(things, rng.randint(1, len(things)))
    form = rng.choice(["sites", "sites", "layers", "regex", "all"])
    if form == "sites":
        share = rng.uniform(0.2, 1.0)
        kept = [site for site in sites if rng.random() < share] or [rng.choice(sites)]
        targets, keys = {"target_modules": kept}, kept
    elif form == "layers":
        targets, keys = {"target_modules": some(short), "layers_to_transform": some(layers)}, short
    elif form == "regex":
        names = "|".join(name.replace(".", r"\.") for name in some(short))
        targets = {"target_modules": rf".*\.layers?\.[{''.join(map(str, some(layers)))}]\.({names})"}
        keys = [rf"layers?\.{layer}\..*" for layer in layers]
    else:
        kept = rng.choice(short)  # PEFT refuses to adapt nothing, and `output.dense` excludes `attention.output.dense` as well
        excluded = [name for name in some(short) if not kept.endswith(name)]
        targets = {"target_modules": "all-linear", "exclude_modules": ["pooler.dense", *excluded]}
        keys = short
    return targets | {
        "r": rng.randint(1, 16),
        "lora_alpha": rng.randint(1, 32),
        "use_rslora": rng.random() < 0.5,
        "rank_pattern": {key: rng.randint(1, 16) for key in keys if form == "sites" or rng.random() < 0.5},
        "alpha_pattern": {key: rng.randint(1, 32) for key in keys if form == "sites" or rng.random() < 0.5},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    sites = goldens.sites(args.model)
    rng = random.Random(args.seed)
    rows = goldens.encode_all(args.model, TEXTS)
    answers, refused = {}, {}
    for number in range(args.count):
        name, labels = f"random-{number}", rng.randint(1, rng.choice([4, 20, 200]))
        if number % 10 == 9:
            variant, refused[name] = rng.choice(VARIANTS)
            goldens.make_adapter(args.model, args.out / name, labels, number, {"target_modules": ["query"]} | variant)
            continue
        beside = goldens.names([f"label {i}" for i in range(labels)], rng.choice(PROBLEMS)) if labels > 1 else None
        goldens.make_adapter(args.model, args.out / name, labels, rng.randrange(2**31), settings(sites, rng), beside)
        answers[name] = goldens.answer(args.model, args.out / name, labels, rows)
    expected = {"max_length": goldens.max_length(args.model), "texts": rows, "adapters": answers, "refused": refused}
    goldens.write_json(args.out / "expected.json", expected)
    print(f"{args.count} adapters in {args.out}")


if __name__ == "__main__":
    main()
