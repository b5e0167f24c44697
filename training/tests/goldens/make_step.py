#!/usr/bin/env python3
"""Makes `step/`: what PyTorch does in one and in three optimiser steps of each training method, on the tiny BERT of
`tests/goldens/bert` and one batch of four texts of different lengths, without dropout.

    pip install -r tests/python/requirements.txt
    python training/tests/goldens/make_step.py          rewrites training/tests/goldens/step; two runs give equal bytes

Made with torch 2.15.0, transformers 5.24.0, safetensors 0.8.0 on a CPU, Python 3.11. Everything is computed in f64 and
rounded to f32 at the end; the script also runs in f32 and fails where that differs by more than 1e-5 or where other gates are
zero. A test may ask for 1e-5 in losses and gradients (relative to `grad_norm`), 1e-4 in steps, and exact zeros of gates.

`<method>.safetensors` holds, for each trainable tensor, `init.<name>`, `grad.<name>` (of loss + penalty at step 0, before clipping),
`step1.<name>` and `step3.<name>`. Names are those of `transformers` checkpoints; a site's own are `<site>.lora_A [r, in]`,
`<site>.lora_B [out, r]` and `<site>.gate [r]`, or `<site>.{down,up}.{weight,bias}` of a bottleneck. `full` has no step 3, and `init` only of what the base lacks (the head).
`bitfit` has no `init` of what the base has either. Key biases have no `step`: their gradient is zero in theory (a softmax
does not see them), so that Adam divides noise by noise.

`batch.json` holds the batch, and for each method its settings, the loss before steps 1, 2, 3 and after step 3 (of the task alone:
`penalty`, where there is one, apart), and the gradients' norm over all trainable tensors at those times, before clipping.

One step is
1. the gradient of the mean loss over the batch, cross-entropy (or MSE), plus the penalty if the method has one;
2. for lora, sora_*, adapter, regression: clip as `torch.nn.utils.clip_grad_norm_` over ALL trainable tensors, gates included:
   multiply by min(1, clip / (norm + 1e-6));
3. `torch.optim.AdamW` (decay decoupled: p <- p (1 - lr wd), then the Adam step, eps added to the corrected root) on all
   trainable tensors, with weight decay for matrices, but not for biases, norms and gates;
4. gates, in `sora_paper`: g <- T_xi(g - lr grad), xi = lr lambda; in `sora_authors`: g <- T_xi(AdamW step with decay 0), xi
   constant, and the penalty `sparse_lambda sum|g| / (number of gate entries)` with d|g|/dg = 0 at 0.
"""
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BASE = ROOT / "tests" / "goldens" / "bert"
OUT = HERE / "step"
sys.path.insert(0, str(ROOT / "tests" / "python"))

import peft_goldens as goldens
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, gelu, linear, mse_loss

TEXTS, LABELS, TARGETS = [1, 0, 7, 4], [2, 0, 1, 2], [0.5, -1.25, 3.0, 2.0]
SEED = 4  # of 0 to 59 the one where f32 and f64 differ least: Adam divides the smallest gradients by themselves
BETAS = [0.9, 0.999]
METHODS = {
    "lora": {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "clip": 1.0, "rank": 4, "alpha": 8},
    "sora_paper": {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "clip": 1.0, "rank": 4, "alpha": 8, "lambda": 5.0},
    "sora_authors": {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "clip": 1.0, "rank": 4, "alpha": 8, "xi": 0.02, "sparse_lambda": 10.0},
    "full": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-6, "clip": None},
    "bitfit": {"lr": 1e-2, "weight_decay": 0.0, "eps": 1e-8, "clip": None},
    "regression": {"clip": 1.0, "rank": 4, "alpha": 8},
    "adapter": {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "clip": 1.0, "bottleneck": 5},
}


class LowRank(torch.nn.Module):
    """`y = W0 x + b + scale * B (g * (A x))`, or without g."""

    def __init__(self, base, settings, gated, generator):
        super().__init__()
        rank, (out_features, in_features) = settings["rank"], base.weight.shape
        self.base, self.scale = base, settings["alpha"] / rank

        def normal(*shape):
            return torch.nn.Parameter(torch.randn(shape, generator=generator))

        self.lora_A, self.lora_B = normal(rank, in_features), normal(out_features, rank)
        self.lora_A.data *= in_features**-0.5
        self.lora_B.data *= 0.1
        self.gate = normal(rank) if gated else None

    def forward(self, x):
        low = linear(x, self.lora_A)
        return self.base(x) + self.scale * linear(low if self.gate is None else low * self.gate, self.lora_B)


class Bottleneck(torch.nn.Module):
    """`h + U gelu(D h + d) + u` for `h = W0 x + b`."""

    def __init__(self, base, size, generator):
        super().__init__()
        hidden = base.weight.shape[0]
        self.base, self.down, self.up = base, torch.nn.Linear(hidden, size), torch.nn.Linear(size, hidden)
        for parameter in [*self.down.parameters(), *self.up.parameters()]:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        h = self.base(x)
        return h + self.up(gelu(self.down(h)))


def soft_threshold(x, xi):
    """T_xi (eq. 11)."""
    return torch.where(x > xi, x - xi, torch.where(x > -xi, torch.zeros_like(x), x + xi))


def build(method, dtype):
    """The model and its trainable tensors by name."""
    settings = METHODS[method]
    model = goldens.load_base(BASE, 1 if method == "regression" else 3)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        model.classifier.weight.copy_(0.3 * torch.randn(model.classifier.weight.shape, generator=generator))
        model.classifier.bias.copy_(0.3 * torch.randn(model.classifier.bias.shape, generator=generator))
    if "rank" in settings:
        sites = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in n]
        for name, module in sites:
            parent, _, child = name.rpartition(".")
            gated = method.startswith("sora")
            setattr(model.get_submodule(parent), child, LowRank(module, settings, gated, generator))
    if "bottleneck" in settings:
        for name, module in list(model.named_modules()):
            if name.endswith(".output.dense"):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, Bottleneck(module, settings["bottleneck"], generator))
    model = model.to(dtype)

    def trains(name):
        if method == "full":
            return True
        if method == "bitfit":
            return name.endswith(".bias") or name == "classifier.weight"
        return name.startswith("classifier.") or name.endswith(("lora_A", "lora_B", "gate")) or ".down." in name or ".up." in name

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss_and_penalty(method, model, parameters, rows):
    """The task's loss (texts one by one, unpadded, then one mean) and the penalty on the gates."""
    out = torch.cat([
        model(input_ids=torch.tensor([row["ids"]]), token_type_ids=torch.tensor([row["type_ids"]])).logits for row in rows
    ])  # fmt: skip
    if method == "regression":
        return mse_loss(out[:, 0], torch.tensor(TARGETS, dtype=out.dtype)), None
    loss = cross_entropy(out, torch.tensor(LABELS))
    if "sparse_lambda" not in METHODS[method]:
        return loss, None
    gates = [p for name, p in parameters.items() if name.endswith(".gate")]
    entries = sum(gate.numel() for gate in gates)
    return loss, METHODS[method]["sparse_lambda"] * sum(gate.abs().sum() for gate in gates) / entries


def optimiser(method, parameters):
    """A function that makes one step from the gradients."""
    settings = METHODS[method]
    gates = [p for name, p in parameters.items() if name.endswith(".gate")]
    rest = [p for name, p in parameters.items() if not name.endswith(".gate")]
    matrices, others = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    if method == "sora_authors":
        groups.append({"params": gates, "weight_decay": 0.0})
    adamw = torch.optim.AdamW(groups, lr=settings["lr"], betas=tuple(BETAS), eps=settings["eps"])

    @torch.no_grad()
    def step():
        if settings["clip"] is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), settings["clip"])
        adamw.step()
        for gate in gates:
            if method == "sora_paper":
                gate.copy_(soft_threshold(gate - settings["lr"] * gate.grad, settings["lr"] * settings["lambda"]))
            else:
                gate.copy_(soft_threshold(gate, settings["xi"]))

    return step


def run(method, rows, dtype):
    """Tensors to save, and the losses on the way."""
    model, parameters = build(method, dtype)
    tensors, record = {}, {"loss": [], "penalty": [], "grad_norm": []}

    def keep(kind):
        tensors.update({f"{kind}.{name}": p.detach().clone() for name, p in parameters.items()})

    def backward():
        model.zero_grad(set_to_none=False)
        loss, penalty = loss_and_penalty(method, model, parameters, rows)
        (loss if penalty is None else loss + penalty).backward()
        record["loss"].append(loss.item())
        if penalty is not None:
            record["penalty"].append(penalty.item())
        record["grad_norm"].append(torch.stack([p.grad.norm() for p in parameters.values()]).norm().item())

    keep("init")
    backward()
    tensors.update({f"grad.{name}": p.grad.clone() for name, p in parameters.items()})
    if method != "regression":
        step = optimiser(method, parameters)
        for number in (1, 2, 3):
            step()
            backward()
            if number != 2:
                keep(f"step{number}")
    return tensors, {key: value for key, value in record.items() if value}


def stored(method, name):
    """Whether a tensor goes into the file (see the head of this script)."""
    kind, _, parameter = name.partition(".")
    if kind.startswith("step") and parameter.endswith("key.bias"):
        return False
    if method == "full" and kind == "step3":
        return False
    return not (method in ("full", "bitfit") and kind == "init" and parameter.startswith("bert."))


def check(method, exact, single):
    """f32 must tell the same story: otherwise a golden would ask for more than f32 can give."""
    for name, want in exact.items():
        worst = (single[name].double() - want).abs().max().item()
        assert not stored(method, name) or worst < 1e-5, (method, name, worst)
        if name.endswith(".gate"):
            assert torch.equal(single[name] == 0, want == 0), (method, name)


def zero_gates(tensors, kind):
    """Number of gate entries that are exactly zero."""
    return sum(int((t == 0).sum()) for name, t in tensors.items() if name.startswith(f"{kind}.") and name.endswith(".gate"))


def main():
    rows = [json.loads((BASE / "expected.json").read_text())["texts"][i] for i in TEXTS]
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    batch = {
        "texts": [{"ids": row["ids"], "type_ids": row["type_ids"]} for row in rows],
        "labels": LABELS,
        "regression_labels": TARGETS,
        "betas": BETAS,
        "methods": {},
    }
    for method, settings in METHODS.items():
        tensors, record = run(method, rows, torch.float64)
        check(method, tensors, run(method, rows, torch.float32)[0])
        kept = {name: t.float().contiguous() for name, t in tensors.items() if stored(method, name)}
        save_file(kept, OUT / f"{method}.safetensors", metadata={"format": "pt"})
        batch["methods"][method] = {"settings": settings} | record
        if method.startswith("sora"):
            batch["methods"][method]["zero_gates"] = {kind: zero_gates(tensors, kind) for kind in ("init", "step1", "step3")}
    goldens.write_json(OUT / "batch.json", batch)


if __name__ == "__main__":
    main()
