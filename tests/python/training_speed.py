#!/usr/bin/env python3
"""The speed and the memory of training on the CPU, beside PyTorch with PEFT, in one run.

    training_speed.py BASE DATA [DATA ...] [--binary target/release/polyrank-train] [--steps 30] [--rounds 3]

Needs torch, transformers, peft and numpy. BASE is a folder with a base, and each DATA a folder with `train.tsv`. Both sides train LoRA of
rank 8 on all linears, on the same rows in batches of 32, with as many threads as there are cores; PEFT pads its batches. Each side runs
in a process of its own, in turn, `--rounds` times. The table has the best round of each, in tokens a second without padding, and the
largest resident memory of its process.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH, RANK, MAX_LENGTH, RATE = 32, 8, 128, 1e-3


def rows_of(path):
    """The header and the rows of a TSV file, as lines."""
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    return header, rows


def subset(data, steps, folder):
    """Writes as many random rows as the steps need, and a validation split of two rows, which is not timed."""
    header, rows = rows_of(Path(data) / "train.tsv")
    random.Random(0).shuffle(rows)
    for name, part in [("train.tsv", rows[: steps * BATCH]), ("validation.tsv", rows[:2])]:
        (folder / name).write_text("\n".join([header, *part]) + "\n", encoding="utf-8")


def measured(command, output):
    """Runs a command. Returns its standard output and the largest resident memory of its process in MiB."""
    with open(output, "w+", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{errors}")
        out.seek(0)
        return out.read(), usage.ru_maxrss / 1024


def ours(base, folder, binary, method, scratch):
    """Tokens a second and MiB of one epoch of ours."""
    output = scratch / f"{method}-{time.monotonic_ns()}"
    command = [binary, "train", "--method", method, "--model-id", base, "--data", folder, "--output", output, "--epochs", "1"]
    command += ["--batch-size", str(BATCH), "--rank", str(RANK), "--alpha", str(2 * RANK), "--lr", str(RATE)]
    command += ["--max-length", str(MAX_LENGTH), "--dropout", "0"]
    _, memory = measured(command, scratch / "out")
    log = (output / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(log[-1])["tokens_per_second"], memory


def peers(base, folder, scratch):
    """Tokens a second and MiB of one epoch of PEFT."""
    output, memory = measured([sys.executable, __file__, "--peer", base, folder], scratch / "out")
    return json.loads(output.splitlines()[-1])["tokens_per_second"], memory


def peer(base, folder):
    """One epoch of PyTorch with PEFT, in this process."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    header, rows = rows_of(Path(folder) / "train.tsv")
    columns, rows = header.split("\t"), [row.split("\t") for row in rows]
    label = columns.index("label")
    texts = [[field for at, field in enumerate(row) if at != label] for row in rows]
    labels = [int(row[label]) for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(set(labels)))
    linears = sorted({n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in n})
    config = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=linears)
    model = get_peft_model(model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    tokens, start = 0, time.perf_counter()
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        pairs = [text[1] for text in batch] if len(batch[0]) > 1 else None
        encoded = tokenizer(
            [text[0] for text in batch], pairs, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt"
        )
        tokens += int(encoded["attention_mask"].sum())
        targets = torch.tensor(labels[first : first + BATCH])
        loss = torch.nn.functional.cross_entropy(model(**encoded).logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(json.dumps({"tokens_per_second": tokens / (time.perf_counter() - start), "loss": loss.item()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--binary", default="target/release/polyrank-train")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args.base, args.data[0])
    print("| task | engine | tokens/s | times PEFT | MiB | of PEFT's |\n| --- | --- | --- | --- | --- | --- |")
    for data in args.data:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            folder = scratch / Path(data).name
            folder.mkdir()
            subset(data, args.steps, folder)
            results = {"PyTorch + PEFT, LoRA": [], "polyrank, LoRA": [], "polyrank, SoRA": []}
            for _ in range(args.rounds):
                results["polyrank, LoRA"].append(ours(args.base, folder, args.binary, "lora", scratch))
                results["PyTorch + PEFT, LoRA"].append(peers(args.base, folder, scratch))
                results["polyrank, SoRA"].append(ours(args.base, folder, args.binary, "sora", scratch))
        best = {name: (max(speed for speed, _ in runs), max(memory for _, memory in runs)) for name, runs in results.items()}
        speed_of_peer, memory_of_peer = best["PyTorch + PEFT, LoRA"]
        for name, (speed, memory) in best.items():
            ratios = f"{speed / speed_of_peer:.2f} | {memory:.0f} | {memory / memory_of_peer:.2f}"
            print(f"| {Path(data).name} | {name} | {speed:.0f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
