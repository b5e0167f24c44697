#!/usr/bin/env python3
"""Makes `extract/`: a fine-tuned classifier made from the tiny BERT of `tests/goldens/bert` by known changes, and what PyTorch finds.

    pip install -r tests/python/requirements.txt
    python training/tests/goldens/make_extract.py       rewrites training/tests/goldens/extract; two runs give equal bytes

`model/` is a folder of `transformers`: the linears are changed by a matrix whose singular values fall, one of them by rank 3 and one not
at all; biases, norms, embeddings and the pooler are changed by little, and the classifier is new.

`expected.json` holds the number of the base's parameters; the singular values of each linear's change by `torch.linalg.svd` in f64; for
each kind of parameter the relative change and the effect of reverting it (mean absolute difference of the logits, share of equal top
labels); the logits of the model for each text; and for each budget the ranks, by this script's own greedy choice, and the logits of the
base with the truncated changes and the model's head. `products.safetensors` holds the truncated changes for the first budget.
"""
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BASE = ROOT / "tests" / "goldens" / "bert"
OUT = HERE / "extract"
sys.path.insert(0, str(ROOT / "tests" / "python"))

import peft_goldens as goldens
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForSequenceClassification

LABELS = ["negative", "neutral", "positive"]
TEXTS = [("the film was great", None), ("the plot was boring", None), ("great", "the film was long and boring"), ("a film of the plot", None),
         ("it was not good", None), ("very good and very long", None), ("the", None), ("plot of the film", "the plot was good")]
SHARES = [0.1, 0.02, 0.9]
RANK_3, UNCHANGED = "encoder.layer.1.attention.self.key", "encoder.layer.2.intermediate.dense"


def kind(name):
    if name.startswith(("pooler.", "classifier.")):
        return "head"
    if "LayerNorm" in name:
        return "norms"
    if name.startswith("embeddings."):
        return "embeddings"
    return "linears" if name.endswith(".weight") else "biases"


def changed(name, tensor):
    """The fine-tuned tensor."""
    if kind(name) != "linears":
        return tensor + 0.02 * torch.randn(tensor.shape)
    if UNCHANGED in name:
        return tensor
    left, values, right = torch.linalg.svd(torch.randn(tensor.shape), full_matrices=False)
    values = tensor.norm() * 0.3 * 0.7 ** torch.arange(len(values)) * (0.5 + torch.rand(1))
    if RANK_3 in name:
        values[3:] = 0
    return tensor + (left * values) @ right


torch.manual_seed(20)
base = AutoModel.from_pretrained(BASE).state_dict()
model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=len(LABELS)).eval()
model.config.id2label = dict(enumerate(LABELS))
model.config.label2id = {name: i for i, name in enumerate(LABELS)}
state = model.state_dict()
names = {name: name.removeprefix("bert.") for name in state}
with torch.no_grad():
    for name, tensor in state.items():
        tensor.copy_(changed(names[name], base[names[name]]) if names[name] in base else torch.randn(tensor.shape))
shutil.rmtree(OUT, ignore_errors=True)
model.save_pretrained(OUT / "model")
for file in ["tokenizer.json", "tokenizer_config.json"]:
    shutil.copy(BASE / file, OUT / "model" / file)
fine = {name: tensor.clone() for name, tensor in state.items()}
rows = goldens.encode_all(BASE, TEXTS)


def logits(tensors):
    """The logits of the model with other values of some of its tensors."""
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors.get(name, fine[name]))
        one = lambda row: model(input_ids=torch.tensor([row["ids"]]), token_type_ids=torch.tensor([row["type_ids"]])).logits[0]
        return torch.stack([one(row) for row in rows])


of_base = {name: base[names[name]] for name in fine if names[name] in base}
kinds = {name: kind(names[name]) for name in of_base}
own = logits({})
expected = {"texts": [{k: row[k] for k in ("text", "text_pair") if k in row} for row in rows], "logits": goldens.plain(own),
            "base_parameters": sum(tensor.numel() for tensor in base.values()), "singular_values": {}, "changes": {}, "budgets": []}


def effect(found):
    return {"difference": (found - own).abs().mean().item(), "agreement": (found.argmax(1) == own.argmax(1)).float().mean().item()}


def square(tensors):
    return sum(tensor.double().square().sum() for tensor in tensors)


for one in ["linears", "head", "biases", "norms", "embeddings"]:
    of = [name for name in of_base if kinds[name] == one]
    relative = (square(fine[name] - of_base[name] for name in of) / square(of_base[name] for name in of)).sqrt().item()
    expected["changes"][one] = {"relative": relative, "reverted": effect(logits({name: of_base[name] for name in of}))}
lost = {name: tensor for name, tensor in of_base.items() if kinds[name] in ("biases", "norms", "embeddings")}
expected["all_lost"] = effect(logits(lost))

sites = [name for name in of_base if kinds[name] == "linears"]
decomposed = {name: torch.linalg.svd(fine[name].double() - of_base[name].double(), full_matrices=False) for name in sites}
expected["singular_values"] = {name: decomposed[name].S.tolist() for name in sites}
for share in SHARES:
    budget = int(share * expected["base_parameters"])
    # The rank that the singular values above rounding errors have.
    real = {name: int((s > s[0] * 2**-23 * max(fine[name].shape)).sum()) for name, (_, s, _) in decomposed.items()}
    gains = sorted(((s**2).item() / sum(fine[name].shape), name) for name, (_, S, _) in decomposed.items() for s in S[: real[name]])
    ranks, left = dict.fromkeys(sites, 0), budget
    for _, name in reversed(gains):
        if sum(fine[name].shape) <= left:
            ranks[name] += 1
            left -= sum(fine[name].shape)
    cut = {name: ((U[:, : ranks[name]] * S[: ranks[name]]) @ V[: ranks[name]]).float() for name, (U, S, V) in decomposed.items()}
    error = (square((fine[name] - of_base[name]) - cut[name] for name in sites) / square(fine[name] - of_base[name] for name in sites)).sqrt().item()
    found = logits(lost | {name: of_base[name] + cut[name] for name in sites})
    expected["budgets"].append({"share": share, "parameters": budget, "ranks": ranks, "relative_error": error,
                                "logits": goldens.plain(found), "effect": effect(found)})
    if share == SHARES[0]:
        save_file({name.removesuffix(".weight"): tensor.contiguous() for name, tensor in cut.items()}, OUT / "products.safetensors")
goldens.write_json(OUT / "expected.json", expected)
print({name: rank for name, rank in expected["budgets"][0]["ranks"].items()}, expected["changes"], expected["all_lost"], expected["budgets"][0]["effect"], expected["budgets"][0]["relative_error"])
