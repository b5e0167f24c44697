#!/usr/bin/env python3
"""Runs the experiments on ranks that are still missing, one after the other, and writes a line for each.

    run.py DATA JOBS RESULTS [--binaries target/release] [--work runs/ranks] [--minutes N]

DATA holds glue/ and tasks/ with a folder for each task. JOBS is a file of lines "NAME task flags of polyrank-train train"; `task:N` takes
the first N rows of train. RESULTS (JSON lines) gets the command, the validation metric of the exported epoch, the test metric where the
task has a test file, the parameters and the ranks. A job whose line is there is not run again, so the script can be stopped at any time.
"""
import argparse
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path


def data_folder(root, task, work):
    """The task's folder, or one with the first rows of its train file."""
    name, _, rows = task.partition(":")
    folder = next(root / group / name for group in ("glue", "tasks") if (root / group / name).is_dir())
    if not rows:
        return folder
    short = work / "data" / f"{name}-{rows}" / name
    if not short.is_dir():
        shutil.copytree(folder, short)
        lines = (folder / "train.tsv").read_text(encoding="utf-8").split("\n")
        (short / "train.tsv").write_text("\n".join(lines[: int(rows) + 1]) + "\n", encoding="utf-8")
    return short


def run(name, task, flags, options):
    data = data_folder(Path(options.data), task, options.work)
    output = options.work / "adapters" / name
    command = [f"{options.binaries}/polyrank-train", "train", "--data", str(data), "--output", str(output), *flags]
    start = time.time()
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = round(time.time() - start)
    log = [json.loads(line) for line in (output / "run/log.jsonl").read_text().splitlines()]
    state = max((output / "run").glob("checkpoint-*/state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    best = json.loads(state.read_text())["progress"]["best_epoch"]
    model = flags[flags.index("--model-id") + 1] if "--model-id" in flags else "default"
    evaluate = [f"{options.binaries}/polyrank-train", "evaluate", "--model-id", model, "--adapter", str(output), "--data", str(data)]
    test = None
    if (data / "test.tsv").exists():
        answer = subprocess.run([*evaluate, "--split", "test", "--json"], check=True, capture_output=True, text=True)
        test = next(iter(json.loads(answer.stdout)["metrics"].values()))
    shown = subprocess.run([f"{options.binaries}/polyrank", "inspect", str(output), "--json"], check=True, capture_output=True, text=True)
    shown = json.loads(shown.stdout)
    shutil.rmtree(output)
    return {
        "name": name,
        "task": task,
        "flags": shlex.join(flags),
        "epoch": best,
        "validation": next(iter(log[best - 1]["metrics"].values())),
        "test": test,
        "parameters": shown["parameters"]["adapter"],
        "ranks": shown["ranks"],
        "curve": [round(next(iter(entry["metrics"].values())), 4) for entry in log],
        "seconds": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("jobs", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--binaries", default="target/release")
    parser.add_argument("--work", type=Path, default=Path("runs/ranks"))
    parser.add_argument("--minutes", type=float, default=1e9)
    options = parser.parse_args()
    began = time.time()
    for line in options.jobs.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, task, *flags = shlex.split(line)
        done = options.results.read_text().splitlines() if options.results.exists() else []
        if any(json.loads(entry)["name"] == name for entry in done):
            continue
        if time.time() - began > 60 * options.minutes:
            break
        entry = run(name, task, flags, options)
        with open(options.results, "a", encoding="utf-8") as results:
            results.write(json.dumps(entry) + "\n")
        print(name, entry["validation"], entry["test"], entry["parameters"], f'{entry["seconds"]} s', flush=True)


if __name__ == "__main__":
    main()
