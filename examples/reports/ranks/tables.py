#!/usr/bin/env python3
"""Tables from the results of run.py, trial/trial.py or a sweep, in Markdown.

    tables.py agreement RESULTS ...  correlation of per-site ranks: two seeds of one task, and two tasks at one seed; then the same for the
                                     differences of ranks from the mean of their module over the layers
    tables.py scores RESULTS ...     mean validation and test metric by base, task, rule, ratio and rate
"""
import argparse
import json
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import correlation, mean


def ranks(entry):
    """Ranks site by site; run.py and sweeps keep them by module, as `inspect --json` prints them."""
    found = entry["ranks"]
    return [rank for module in found.values() for rank in module] if isinstance(found, dict) else found


def differences(entry):
    """Each rank without the mean of its module over the layers; None where the modules are not known."""
    found = entry["ranks"]
    return [rank - mean(module) for module in found.values() for rank in module] if isinstance(found, dict) else None


def facts(entry):
    """What a line says about its run, whichever program wrote it."""
    if "settings" in entry:
        settings, metric = entry["settings"], lambda values: next(iter(values.values())) if values else None
        rule = f"{entry['method']}, r = {entry['rank']}"
        return entry["seed"], rule, settings.get("target_ratio"), settings["lr"], metric(entry["validation"]), metric(entry["test"])
    if "flags" not in entry:
        return entry["seed"], entry["name"], entry.get("ratio"), entry["lr"], entry.get("best"), entry.get("test")
    parser = argparse.ArgumentParser()
    for flag, kind in ("--seed", int), ("--target-ratio", float), ("--lr", str):
        parser.add_argument(flag, type=kind)
    flags = parser.parse_known_args(entry["flags"].split())[0]
    # run.py names its jobs task-rule-seed, unless all jobs of a file have one rule.
    parts = entry["name"].split("-")
    rule = entry.get("variant") or (parts[1:-1] or ["product"])[0]
    return flags.seed, rule, flags.target_ratio, flags.lr, entry["validation"], entry["test"]


def base(entry, path):
    """The base, which a sweep's file has in its name: its lines have only the folder."""
    return entry.get("base", "minilm") if "settings" not in entry else path.stem.split("-")[0]


def agreement(entries):
    groups = defaultdict(dict)
    for path, entry in entries:
        seed, rule, ratio, rate, *_ = facts(entry)
        # Uniform ranks agree by definition.
        if ratio is not None and entry["name"] not in ("r1", "r5", "r8"):
            groups[base(entry, path), rule, ratio, str(rate)][entry["task"], seed] = ranks(entry), differences(entry)
    print("| base | rule | ratio | rate | one task, two seeds | two tasks, one seed | within modules: two seeds | two tasks |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    cell = lambda values: f"{mean(values):.2f} ({len(values)} pairs)" if values else "-"
    for group, maps in sorted(groups.items()):
        cells = [cell(values) for view in (0, 1) for values in correlations(maps, view)]
        print(f"| {' | '.join(map(str, group))} | {' | '.join(cells)} |")


def correlations(maps, view):
    """Those of two seeds of one task, and those of two tasks at one seed. The maps of ranks have two views."""
    same, other = [], []
    for (task, seed), (task2, seed2) in combinations(sorted(maps), 2):
        a, b = maps[task, seed][view], maps[task2, seed2][view]
        if a and b and len(set(a)) > 1 and len(set(b)) > 1 and (task == task2 or seed == seed2):
            (same if task == task2 else other).append(correlation(a, b))
    return same, other


def scores(entries):
    groups = defaultdict(list)
    for path, entry in entries:
        _, rule, ratio, rate, *metrics = facts(entry)
        groups[base(entry, path), entry["task"], rule, "" if ratio is None else ratio, str(rate)].append(metrics)
    print("| base | task | rule | ratio | rate | runs | validation | test |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for key, found in sorted(groups.items(), key=str):
        columns = [[value for value in column if value is not None] for column in zip(*found)]
        cells = [f"{100 * mean(values):.2f}" if values else "-" for values in columns]
        print(f"| {' | '.join(map(str, key))} | {len(found)} | {' | '.join(cells)} |")


kind, *paths = sys.argv[1:]
lines = [(Path(path), json.loads(line)) for path in paths for line in open(path, encoding="utf-8")]
{"agreement": agreement, "scores": scores}[kind](lines)
