#!/usr/bin/env python3
"""The speed and the memory of training on the CPU, beside PyTorch with PEFT, in one run.

    training_speed.py BASE DATA [DATA ...] [--binary target/release/polyrank-train] [--steps 30] [--rounds 3]

Needs torch, transformers, peft and numpy. BASE is a folder with a base, and each DATA a folder with `train.tsv`. Both sides train LoRA and
AdaLoRA of rank 8 on all linears, and ours SoRA, on the same rows in batches of 32, with as many threads as there are cores; PEFT pads its
batches. Each runs in a process of its own, in turn, `--rounds` times. The table has the best round of each, in tokens a second without
padding, and the largest resident memory of its process. Ratios are to PEFT's LoRA.
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
# The rows of the table, in the order in which they run.
SIDES = [("polyrank", "lora"), ("PEFT", "lora"), ("polyrank", "sora"), ("PEFT", "adalora"), ("polyrank", "adalora")]


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


def peers(base, folder, method, scratch):
    """Tokens a second and MiB of one epoch of PEFT."""
    output, memory = measured([sys.executable, __file__, "--peer", method, base, folder], scratch / "out")
    return json.loads(output.splitlines()[-1])["tokens_per_second"], memory


def peer(base, folder, method):
    """One epoch of PyTorch with PEFT, in this process."""
    import torch
    from peft import AdaLoraConfig, LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    # PyTorch's own default may be the physical cores.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    header, rows = rows_of(Path(folder) / "train.tsv")
    columns, rows = header.split("\t"), [row.split("\t") for row in rows]
    label = columns.index("label")
    texts = [[field for at, field in enumerate(row) if at != label] for row in rows]
    labels = [int(row[label]) for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(set(labels)))
    linears = sorted({n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in n})
    common = {"task_type": "SEQ_CLS", "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "target_modules": linears}
    steps = -(-len(texts) // BATCH)
    if method == "adalora":
        # PEFT's default of 1.5 times the final rank at the start; the budget falls in the middle of the epoch.
        phases = {"tinit": steps // 10, "tfinal": steps // 2, "deltaT": 1, "total_step": steps}
        config = AdaLoraConfig(init_r=RANK * 3 // 2, target_r=RANK, **phases, **common)
    else:
        config = LoraConfig(r=RANK, **common)
    model = get_peft_model(model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    tokens, start = 0, time.perf_counter()
    for step, first in enumerate(range(0, len(texts), BATCH)):
        batch = texts[first : first + BATCH]
        pairs = [text[1] for text in batch] if len(batch[0]) > 1 else None
        encoded = tokenizer(
            [text[0] for text in batch], pairs, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt"
        )
        tokens += int(encoded["attention_mask"].sum())
        targets = torch.tensor(labels[first : first + BATCH])
        # With labels, AdaLoRA's model adds its penalty to the loss.
        loss = model(**encoded, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if method == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    print(json.dumps({"tokens_per_second": tokens / (time.perf_counter() - start), "loss": loss.item()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--binary", default="target/release/polyrank-train")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args.base, args.data[0], args.peer)
    print("| task | engine | tokens/s | times PEFT | MiB | of PEFT's |\n| --- | --- | --- | --- | --- | --- |")
    for data in args.data:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            folder = scratch / Path(data).name
            folder.mkdir()
            subset(data, args.steps, folder)
            results = {side: [] for side in SIDES}
            for _ in range(args.rounds):
                for (engine, method), runs in results.items():
                    if engine == "PEFT":
                        runs.append(peers(args.base, folder, method, scratch))
                    else:
                        runs.append(ours(args.base, folder, args.binary, method, scratch))
        best = {name: (max(speed for speed, _ in runs), max(memory for _, memory in runs)) for name, runs in results.items()}
        speed_of_peer, memory_of_peer = best["PEFT", "lora"]
        for (engine, method), (speed, memory) in best.items():
            ratios = f"{speed / speed_of_peer:.2f} | {memory:.0f} | {memory / memory_of_peer:.2f}"
            print(f"| {Path(data).name} | {engine}, {method} | {speed:.0f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
