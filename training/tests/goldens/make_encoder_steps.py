#!/usr/bin/env python3
"""Makes `encoder_steps/`: what PyTorch does in one LoRA step on every tiny base of `tests/goldens/encoders`.

    pip install -r tests/python/requirements.txt
    python training/tests/goldens/make_encoder_steps.py [BASE...]          rewrites them; two runs give equal bytes

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0 on a CPU, Python 3.11. As `make_step.py`'s `lora` (all linears of the
layers, AdamW with decoupled decay of matrices, gradients clipped over all), in f64, rounded at the end. Each file holds `init.`, `grad.` and
`step1.` of every trainable tensor; `batch.json` each base's texts and labels, loss, and the gradients' norm before clipping.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BASES = ROOT / "tests" / "goldens" / "encoders"
OUT = HERE / "encoder_steps"
sys.path.insert(0, str(ROOT / "tests" / "python"))
sys.path.insert(0, str(HERE))

import make_step
import peft_goldens as goldens
import torch
from safetensors.torch import save_file

SETTINGS = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "clip": 1.0, "rank": 3, "alpha": 6}
TEXTS, LABELS = [1, 0, 7, 4], [2, 0, 1, 2]


def build(base, dtype):
    """The model and its trainable tensors by name: LoRA on every linear of the layers, and what the base lacks of the head."""
    model = goldens.load_base(base, 3)
    generator = torch.Generator().manual_seed(7)
    kept = {name for name, _ in safetensors_names(base)}
    heads = [name for name, _ in model.named_parameters() if name not in kept]
    with torch.no_grad():
        for name in heads:
            parameter = model.get_parameter(name)
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    sites = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and (".layer." in n or ".layers." in n)]
    for name, module in sites:
        parent, _, child = name.rpartition(".")
        if module.bias is None:
            module.register_parameter("bias", None)
        setattr(model.get_submodule(parent), child, make_step.LowRank(module, SETTINGS, False, generator))
    model = model.to(dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in heads or name.endswith(("lora_A", "lora_B")))
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def safetensors_names(base):
    from safetensors import safe_open

    with safe_open(base / "model.safetensors", "pt") as file:
        return [(name, file.get_slice(name)) for name in file.keys()]


def run(base, rows, dtype):
    model, parameters = build(base, dtype)
    tensors = {f"init.{name}": p.detach().clone() for name, p in parameters.items()}
    out = torch.cat([model(**goldens.inputs(model, row)).logits for row in rows])
    loss = torch.nn.functional.cross_entropy(out, torch.tensor(LABELS))
    loss.backward()
    tensors |= {f"grad.{name}": p.grad.clone() for name, p in parameters.items()}
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), SETTINGS["clip"]).item()
    decays = [{"params": [p for p in parameters.values() if (p.ndim > 1) == matrix], "weight_decay": SETTINGS["weight_decay"] * matrix}
              for matrix in (True, False)]
    torch.optim.AdamW(decays, lr=SETTINGS["lr"], eps=SETTINGS["eps"]).step()
    return tensors | {f"step1.{name}": p.detach().clone() for name, p in parameters.items()}, loss.item(), norm


def main():
    OUT.mkdir(exist_ok=True)
    batch = {"settings": SETTINGS, "labels": LABELS, "bases": {}}
    if sys.argv[1:]:
        batch["bases"] = json.loads((OUT / "batch.json").read_text())["bases"]
    for base in sorted(path for path in BASES.iterdir() if path.name in sys.argv[1:] or not sys.argv[1:]):
        rows = [json.loads((base / "expected.json").read_text())["texts"][i] for i in TEXTS]
        tensors, loss, norm = run(base, rows, torch.float64)
        single, _, _ = run(base, rows, torch.float32)
        # Adam divides a gradient by itself: where that is noise, f32 and f64 part ways, and nothing is asked.
        for name in [name for name in tensors if name.startswith("step1.")]:
            if (single[name].double() - tensors[name]).abs().max().item() > 1e-5:
                print(f"{base.name}: {name} left out")
                del tensors[name]
        save_file({n: t.float().contiguous() for n, t in tensors.items()}, OUT / f"{base.name}.safetensors", metadata={"format": "pt"})
        texts = [{"ids": row["ids"], "type_ids": row["type_ids"]} for row in rows]
        batch["bases"][base.name] = {"texts": texts, "loss": loss, "grad_norm": norm}
        print(base.name, f"loss {loss:.4f}, norm {norm:.4f}, {sum(n.startswith('step1.') for n in tensors)} tensors")
    batch["bases"] = dict(sorted(batch["bases"].items()))
    goldens.write_json(OUT / "batch.json", batch)


if __name__ == "__main__":
    main()
