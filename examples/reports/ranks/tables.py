#!/usr/bin/env python3
"""Tables from the results of run.py or trial/trial.py, in Markdown.

    tables.py agreement RESULTS      correlation of per-site ranks: two seeds of one task, and two tasks at one seed; then the same for the
                                     differences of ranks from the mean of their module over the layers
    tables.py scores RESULTS         mean validation and test metric by base, task, rule, ratio and rate
"""
import json
import sys
from collections import defaultdict
from itertools import combinations
from statistics import correlation, mean


def ranks(entry):
    """Ranks site by site; run.py keeps them by module, as `inspect --json` prints them."""
    found = entry["ranks"]
    return [rank for module in found.values() for rank in module] if isinstance(found, dict) else found


def differences(entry):
    """Each rank without the mean of its module over the layers; None where the modules are not known."""
    found = entry["ranks"]
    return [rank - mean(module) for module in found.values() for rank in module] if isinstance(found, dict) else None


def agreement(entries):
    groups = defaultdict(dict)
    for entry in entries:
        if entry["name"] in ("r1", "r5", "r8"):
            continue
        flags = entry.get("flags", "").split()
        seed = int(flags[flags.index("--seed") + 1]) if flags else entry["seed"]
        rule = entry.get("variant") or ("product" if flags else entry["name"])
        ratio = float(flags[flags.index("--target-ratio") + 1]) if flags else entry["ratio"]
        lr = flags[flags.index("--lr") + 1] if flags else entry["lr"]
        groups[entry.get("base", "minilm"), rule, ratio, str(lr)][entry["task"], seed] = ranks(entry), differences(entry)
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
    for entry in entries:
        # run.py names its jobs task-rule-seed, unless all jobs of a file have one rule.
        parts = entry["name"].split("-")
        rule = entry.get("variant") or ((parts[1:-1] or ["product"])[0] if "flags" in entry else entry["name"])
        flags = entry.get("flags", "").split()
        rate = flags[flags.index("--lr") + 1] if flags else entry["lr"]
        ratio = flags[flags.index("--target-ratio") + 1] if "--target-ratio" in flags else entry.get("ratio", "")
        groups[entry.get("base", "minilm"), entry["task"], rule, ratio, str(rate)].append(entry)
    print("| base | task | rule | ratio | rate | runs | validation | test |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for key, found in sorted(groups.items(), key=str):
        of = lambda *names: [value for entry in found for name in names if (value := entry.get(name)) is not None]
        cells = [f"{100 * mean(values):.2f}" if values else "-" for values in (of("best", "validation"), of("test"))]
        print(f"| {' | '.join(map(str, key))} | {len(found)} | {' | '.join(cells)} |")


kind, path = sys.argv[1:]
lines = [json.loads(line) for line in open(path, encoding="utf-8")]
{"agreement": agreement, "scores": scores}[kind](lines)
