#!/usr/bin/env python3
"""Writes bases of random weights in known shapes, in bf16: OUT/roberta-large, OUT/deberta-v3-base.

    bases.py OUT [--shapes roberta-large,deberta-v3-base] [--device cuda] [--tiny]

The vocabulary is small, which does not change what a token costs; the tokenizers are those of the tiny bases in tests/goldens.
`--tiny` makes small bases of the same architectures, to rehearse with.
"""
import argparse
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, DebertaV2Config, RobertaConfig

GOLDENS = Path(__file__).resolve().parent.parent / "goldens/encoders"
VOCABULARY = 4096
TINY = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)

# name: (configuration, its arguments, the golden whose tokenizer it takes, beginnings of the names that a base keeps)
SHAPES = {
    "roberta-large": (RobertaConfig, dict(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, max_position_embeddings=514,
        type_vocab_size=1, layer_norm_eps=1e-5), "roberta", ("roberta.",)),
    "deberta-v3-base": (DebertaV2Config, dict(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, max_position_embeddings=512,
        relative_attention=True, position_buckets=256, max_relative_positions=-1, share_att_key=True, norm_rel_ebd="layer_norm",
        position_biased_input=False, pos_att_type=["p2c", "c2p"], type_vocab_size=0, layer_norm_eps=1e-7, pad_token_id=0,
        pooler_hidden_size=768, pooler_hidden_act="gelu"), "deberta", ("deberta.", "pooler.")),
}  # fmt: skip


def make(name, out, device, tiny):
    kind, arguments, tokenizer, kept = SHAPES[name]
    if tiny:
        arguments = arguments | TINY | ({"pooler_hidden_size": TINY["hidden_size"]} if "pooler_hidden_size" in arguments else {})
    config = kind(vocab_size=VOCABULARY, **arguments)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForSequenceClassification.from_config(config)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to("cpu", torch.bfloat16).contiguous() for key, tensor in model.state_dict().items() if key.startswith(kept)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(GOLDENS / tokenizer / file, folder)
    print(f"{folder}: {sum(tensor.numel() for tensor in tensors.values()) / 1e6:.0f} M parameters", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shapes", default="roberta-large,deberta-v3-base")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    for name in args.shapes.split(","):
        make(name, args.out, args.device, args.tiny)


if __name__ == "__main__":
    main()
