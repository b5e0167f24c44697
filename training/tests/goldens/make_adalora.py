#!/usr/bin/env python3
"""Makes `adalora/`: the budget, the ranks and the penalty of PEFT's AdaLoRA, on linears of ragged shapes.

    pip install -r tests/python/requirements.txt
    python training/tests/goldens/make_adalora.py          rewrites training/tests/goldens/adalora; two runs give equal bytes

Made with torch 2.15.0, peft 0.21.2, safetensors 0.8.0 on a CPU, Python 3.11, in f32.

The model has two layers with the modules `query` (6 to 6), `intermediate` (6 to 10) and `output` (10 to 6). It starts at rank 3 with the
target 2. Names of tensors are `<site>.lora_A [3, in]`, `<site>.lora_B [out, 3]` and `<site>.lora_E [3]`, where a site is `m.layer.<n>.<module>`.

`budget.json` holds, for several runs, the settings and for each step from 1 the result of `RankAllocator.budget_schedule`: the budget
and whether ranks are chosen. `facts.json` holds the settings of the run below, and the penalty.

`steps.safetensors` holds, for each step t of a run, `weights<t>.<name>` and `gradients<t>.<name>`, drawn at random, and `masked<t>.<name>`,
`lora_E` after `AdaLoraModel.update_and_allocate(t)`. Weights are drawn anew in each step, so that a rank that was 0 has another value.

`penalty.safetensors` holds `weight.<name>` and `gradient.<name>`, the gradient of the penalty of `AdaLoraModel.forward`.
"""
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import AdaLoraConfig, get_peft_model
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent / "adalora"
MODULES = {"query": (6, 6), "intermediate": (6, 10), "output": (10, 6)}
RUN = {"init_r": 3, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2, "total_step": 12}
BUDGETS = [
    RUN,
    {"init_r": 12, "target_r": 8, "tinit": 150, "tfinal": 500, "deltaT": 2, "total_step": 1000},
    {"init_r": 12, "target_r": 3, "tinit": 0, "tfinal": 0, "deltaT": 1, "total_step": 50},
    {"init_r": 8, "target_r": 8, "tinit": 7, "tfinal": 11, "deltaT": 7, "total_step": 60},
]


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, (width, out) in MODULES.items():
            setattr(self, name, torch.nn.Linear(width, out))


class Tiny(torch.nn.Module):
    """It is never run: only its parameters matter."""

    def __init__(self):
        super().__init__()
        self.m = torch.nn.Module()
        self.m.layer = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, loss):
        return SimpleNamespace(loss=loss)


def peft(settings):
    torch.manual_seed(3)
    config = AdaLoraConfig(target_modules=list(MODULES), lora_alpha=6, orth_reg_weight=0.5, **settings)
    return get_peft_model(Tiny(), config)


def trained(model):
    """The adapter's parameters by our names."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".default"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def stored(parameter):
    return parameter.detach().clone().contiguous() if parameter.shape[-1] != 1 else parameter.detach().clone().flatten()


def budgets():
    runs = []
    for settings in BUDGETS:
        allocator = peft(settings).base_model.rankallocator
        steps = [allocator.budget_schedule(step) for step in range(1, settings["total_step"] + 1)]
        runs.append(settings | {"init": allocator.init_bgt, "target": allocator.target_bgt, "steps": steps})
    return runs


def steps():
    model, tensors = peft(RUN), {}
    generator = torch.Generator().manual_seed(7)
    for step in range(1, RUN["total_step"] + 1):
        for name, parameter in trained(model).items():
            parameter.data = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            tensors[f"weights{step}.{name}"] = stored(parameter)
            tensors[f"gradients{step}.{name}"] = stored(parameter.grad)
        model.base_model.update_and_allocate(step)
        for name, parameter in trained(model).items():
            if name.endswith("lora_E"):
                tensors[f"masked{step}.{name}"] = stored(parameter)
    return tensors


def penalty():
    model, tensors = peft(RUN), {}
    generator = torch.Generator().manual_seed(9)
    for parameter in trained(model).values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    loss = model.base_model(torch.zeros(())).loss
    loss.backward()
    for name, parameter in trained(model).items():
        if not name.endswith("lora_E"):
            tensors[f"weight.{name}"] = stored(parameter)
            tensors[f"gradient.{name}"] = stored(parameter.grad)
    return tensors, loss.item()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    gradients, loss = penalty()
    save_file(steps(), OUT / "steps.safetensors", metadata={"format": "pt"})
    save_file(gradients, OUT / "penalty.safetensors", metadata={"format": "pt"})
    (OUT / "budget.json").write_text(json.dumps(budgets()) + "\n")
    (OUT / "facts.json").write_text(json.dumps({"settings": RUN, "orth_reg_weight": 0.5, "penalty": loss}) + "\n")


if __name__ == "__main__":
    main()
