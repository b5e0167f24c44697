#!/usr/bin/env python3
"""What older releases of PEFT write as `adapter_config.json`: `peft_versions.json`, {version: configuration}.

    usage: make_versions.py > peft_versions.json

Each release is fetched by pip and asked, beside the present `transformers`, for the adapter that is golden `bert/plain`: the
tensors of all releases have the same names, so only the configurations are kept. (0.17's does not import any more.)
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSIONS = ["0.2.0", "0.3.0", "0.5.0", "0.7.1", "0.10.0", "0.12.0", "0.14.0", "0.19.0"]


def write(folder):
    """Runs with an old PEFT on the path."""
    import peft
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(HERE / "bert", num_labels=2)
    targets = ["query", "value", "intermediate.dense"]
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.1, target_modules=targets)
    peft.get_peft_model(model, settings).save_pretrained(folder)


def main():
    if len(sys.argv) == 2:
        return write(sys.argv[1])
    configs = {}
    for version in VERSIONS:
        with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", old, f"peft=={version}"], check=True)
            subprocess.run([sys.executable, __file__, folder], env=os.environ | {"PYTHONPATH": old, "HF_HUB_OFFLINE": "1"}, check=True)
            config = json.loads((Path(folder) / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "base"
        config["target_modules"] = sorted(config["target_modules"])
        configs[version] = config
    json.dump(configs, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
