#!/usr/bin/env python3
"""Makes `head_lora/`: adapters by PEFT that add a delta to a linear of the head, which the base brings, and what they answer.

    pip install -r tests/python/requirements.txt
    python tests/goldens/make_head_lora.py          rewrites tests/goldens/head_lora; two runs give equal bytes

Made with torch 2.15.0, transformers 5.24.0, peft 0.21.2. `all-linear` means BERT's pooler and ModernBERT's `head.dense` too. For
bases whose head lies under `classifier` PEFT saves the whole head instead; DeBERTa's bases have no pooler to add to.
"""
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

import peft_goldens as goldens

OUT = HERE / "head_lora"
TEXTS = [("The plot was not very good.", None), ("The movie was boring.", "It was not fun."), ("", None)]
ADAPTERS = {
    "bert": {
        "all": (3, dict(r=2, lora_alpha=8, target_modules="all-linear")),
        "suffix": (2, dict(r=2, lora_alpha=4, use_rslora=True, target_modules=["dense", "query"],
                           rank_pattern={"pooler.dense": 3}, alpha_pattern={"pooler.dense": 5})),
        "only": (2, dict(r=4, lora_alpha=4, target_modules=r"bert\.pooler\.dense")),
    },
    "encoders/modernbert": {"all": (2, dict(r=2, lora_alpha=8, target_modules="all-linear"))},
}  # fmt: skip


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    expected = {}
    for base, adapters in ADAPTERS.items():
        rows = goldens.encode_all(HERE / base, TEXTS)
        answers = {}
        for seed, (name, (labels, settings)) in enumerate(adapters.items(), 40):
            folder = OUT / f"{Path(base).name}-{name}"
            goldens.make_adapter(HERE / base, folder, labels, seed, dict(settings))
            answers[folder.name] = goldens.answer(HERE / base, folder, labels, rows)
        expected[base] = {"texts": rows, "adapters": answers}
    goldens.write_json(OUT / "expected.json", expected)


if __name__ == "__main__":
    main()
