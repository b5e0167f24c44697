#!/usr/bin/env python3
"""Makes `legacy/before_1_6.bin`: the weights of `legacy/deberta.safetensors` as torch saved them before release 1.6.

    pip install -r tests/python/requirements.txt
    python tests/goldens/make_legacy_pickle.py          rewrites it; two runs differ in the keys of storages, which are addresses

One tensor is a parameter, one lies transposed, one is f16, one f64, and two names share one storage, at different places; an integer
buffer is there as well, as bases of that time have it.
"""
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file

OUT = Path(__file__).resolve().parent / "legacy"
LAYER = "deberta.encoder.layer.0."


def main():
    state = OrderedDict(sorted(load_file(OUT / "deberta.safetensors").items()))
    query, key = LAYER + "attention.self.query_proj", LAYER + "attention.self.key_proj"
    state[query + ".weight"] = torch.nn.Parameter(state[query + ".weight"])
    state[key + ".weight"] = state[key + ".weight"].t().contiguous().t()
    state[LAYER + "output.dense.weight"] = state[LAYER + "output.dense.weight"].half()
    state[LAYER + "output.dense.bias"] = state[LAYER + "output.dense.bias"].double()
    both = torch.cat([state[query + ".bias"], state[key + ".bias"]])
    state[query + ".bias"], state[key + ".bias"] = both.split(len(both) // 2)
    state["deberta.embeddings.position_ids"] = torch.arange(64).expand((1, -1))
    state._metadata = {"": {"version": 1}}
    torch.save(state, OUT / "before_1_6.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
