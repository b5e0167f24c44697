#!/usr/bin/env python3
"""Bases of random weights in a known model's shape, and random PEFT adapters in a known pattern of ranks: to measure with.

    shapes.py base SHAPE OUT [--tokens 4000]          SHAPE: deberta-v3-base, roberta-large
    shapes.py adapters MODEL_DIR OUT N PATTERN        PATTERN: ragged, uniform, late, wide

A base has a vocabulary of its own, of about `--tokens`, trained over the texts that `texts.py` draws from, so that its tables
stay small; it does not change what a token costs. Patterns:

    ragged    as SoRA leaves them: 0 to 8 a site, and the shallower a layer, the more of its sites absent
    uniform   8 at every site
    late      the first half of the layers left alone, ragged above
    wide      the first adapter of rank 64, all others of rank 2, at every site
"""
import argparse
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/python"))

import made_tokenizers
import peft_goldens as goldens
import texts
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, DebertaV2Config, RobertaConfig

# name: (configuration, its arguments, tokenizer, beginnings of the names that a base keeps: all but the classifier)
SHAPES = {
    "deberta-v3-base": (DebertaV2Config, dict(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, max_position_embeddings=512,
        relative_attention=True, position_buckets=256, max_relative_positions=-1, share_att_key=True, norm_rel_ebd="layer_norm",
        position_biased_input=False, pos_att_type=["p2c", "c2p"], type_vocab_size=0, layer_norm_eps=1e-7, pad_token_id=0,
        pooler_hidden_size=768, pooler_hidden_act="gelu"), made_tokenizers.deberta, ("deberta.", "pooler.")),
    "roberta-large": (RobertaConfig, dict(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, max_position_embeddings=514,
        type_vocab_size=1, layer_norm_eps=1e-5), made_tokenizers.byte_level, ("roberta.",)),
}  # fmt: skip
LABELS = 2


def make_base(shape, out, tokens):
    kind, arguments, tokenizer, kept = SHAPES[shape]
    made, settings = tokenizer(texts.known(), tokens)
    config = kind(vocab_size=made.get_vocab_size(), **arguments)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(kept)}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)
    made.save(str(out / "tokenizer.json"))
    goldens.write_json(out / "tokenizer_config.json", settings | {"model_max_length": 512}, indent=2)


def ranks(pattern, sites, number, rng):
    """The rank of each site of adapter `number`; a site without one is absent."""
    layer = {site: int(re.search(r"\.layers?\.(\d+)\.", site)[1]) for site in sites}
    layers = 1 + max(layer.values())
    ragged = lambda site: rng.randint(1, 8) if rng.random() < (layer[site] + 1) / layers else 0
    by_pattern = {
        "ragged": ragged,
        "uniform": lambda site: 8,
        "late": lambda site: rng.randint(1, 8) if 2 * layer[site] >= layers else 0,
        "wide": lambda site: 64 if number == 0 else 2,
    }
    return {site: rank for site in sites if (rank := by_pattern[pattern](site))}


def make_adapters(base, out, count, pattern):
    sites, rng = goldens.sites(base), random.Random(pattern)
    for number in range(count):
        of = ranks(pattern, sites, number, rng)
        settings = {"target_modules": list(of), "r": 8, "lora_alpha": 16, "rank_pattern": of}
        names = goldens.names([f"label {i}" for i in range(LABELS)], "single_label_classification")
        goldens.make_adapter(base, out / f"{pattern}-{number:02}", LABELS, number, settings, names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    base = commands.add_parser("base")
    base.add_argument("shape", choices=SHAPES)
    base.add_argument("out", type=Path)
    base.add_argument("--tokens", type=int, default=4000)
    adapters = commands.add_parser("adapters")
    adapters.add_argument("model", type=Path)
    adapters.add_argument("out", type=Path)
    adapters.add_argument("count", type=int)
    adapters.add_argument("pattern", choices=["ragged", "uniform", "late", "wide"])
    args = parser.parse_args()
    if args.command == "base":
        make_base(args.shape, args.out, args.tokens)
    else:
        make_adapters(args.model, args.out, args.count, args.pattern)


if __name__ == "__main__":
    main()
