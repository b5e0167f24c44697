#!/usr/bin/env python3
"""polyrank beside its peers, on the same texts in the same run, as a Markdown table of ratios.

    peers.py POLYRANK MODEL_DIR ADAPTERS [--texts FILE] [--peers torch,onnx] [--dtypes f32,bf16,int8] [--rounds 5]

POLYRANK is the binary, MODEL_DIR the base's folder, ADAPTERS a folder of PEFT adapters; those of the commonest number of labels
are taken, for PEFT mixes no others. FILE has a text a line; by default `texts.py` makes 1,024. Each round runs every engine
once, so that a noisy machine slows all alike, and medians over the rounds are compared. Peers that know no adapters are given one
adapter merged into the base, and their inputs sorted by length; polyrank and PEFT are given all adapters mixed, as texts come.

    torch-mixed   PyTorch f32 + PEFT, `adapter_names`        onnx-f32    ONNX Runtime on the exported model
    torch-f32     PyTorch f32, one model                     onnx-int8   the same, dynamically quantised
    torch-bf16    PyTorch bf16, one model
"""
import argparse
import copy
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import engines
import texts as measured
import torch
from safetensors import safe_open

ALONE = 200  # texts that are asked alone, as many as `polyrank bench` asks
PEERS = ["torch-mixed", "torch-f32", "torch-bf16", "onnx-f32", "onnx-int8"]

# What the ratio of our texts a second to a peer's should reach (at least, stretch), by our type and the peer. Of DeBERTa there
# is a goal of its own.
THROUGHPUT = [
    ("f32", "torch-mixed", "PyTorch + PEFT mixed", (2.0, 2.3)),
    ("f32", "onnx-f32", "ONNX Runtime f32, one merged model, sorted", (0.9, 1.1)),
    ("f32", "torch-f32", "PyTorch f32, one merged model, sorted", None),
    ("bf16", "torch-bf16", "PyTorch bf16, one merged model, sorted", (1.2, 1.5)),
    ("int8", "onnx-int8", "ONNX Runtime int8, one merged model, sorted", (1.1, 1.5)),
]
DEBERTA = (1.3, 1.8)
# What our median latency of one text alone may be of a peer's.
LATENCY = [
    ("f32", "onnx-f32", "ONNX Runtime f32", (1.0, 0.7)),
    ("int8", "onnx-int8", "ONNX Runtime int8", (1.0, 0.7)),
    ("f32", "torch-f32", "PyTorch f32", None),
]
MEMORY = 100  # MB, f32


def labels(adapter):
    with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
        head = next(key for key in tensors.keys() if key.endswith(("classifier.bias", "classifier.out_proj.bias")))
        return tensors.get_slice(head).get_shape()[0]


def chosen(folder):
    """The largest set of adapters with one number of labels, and that number."""
    sizes = {}
    for config in sorted(folder.glob("*/adapter_config.json")):
        sizes.setdefault(labels(config.parent), []).append(config.parent)
    return max(sizes.items(), key=lambda item: len(item[1]))


def peers(args, names, texts, folder):
    """Engines by name; one that cannot be made for this base is named and left out."""
    count, adapters = chosen(args.adapters)
    torch.set_num_threads(args.threads)
    exported, small = folder / "model.onnx", folder / "int8.onnx"
    model = engines.merged(args.model, count, adapters[0])

    def onnx(path):
        return engines.Onnx(args.model, path, args.threads)

    def onnx_int8():
        engines.quantised(exported, small)
        apart = engines.difference(args.model, model, small, texts[:64])
        print(f"ONNX Runtime's int8 logits are {apart:.2g} off", flush=True)
        return onnx(small)

    def torch_mixed():
        mixed = engines.mixed(args.model, count, adapters)
        return engines.Torch(args.model, mixed, [path.name for path in adapters])

    made = {
        "torch-mixed": torch_mixed,
        "torch-f32": lambda: engines.Torch(args.model, model),
        "torch-bf16": lambda: engines.Torch(args.model, copy.deepcopy(model).to(torch.bfloat16)),
        "onnx-f32": lambda: onnx(exported),
        "onnx-int8": onnx_int8,
    }
    ready = {}
    if any(name.startswith("onnx") for name in names):
        try:
            engines.export(args.model, model, exported, texts[:64])
        except Exception as error:  # whatever an exporter raises of a base that it does not know
            print(f"onnx: not exported: {first_line(error)}", file=sys.stderr)
            names = [name for name in names if not name.startswith("onnx")]
    for name in names:
        try:
            ready[name] = made[name]()
            ready[name].run(texts[:64])
        except Exception as error:  # PEFT mixes no heads of several linears, for one
            ready.pop(name, None)
            print(f"{name}: not measured: {first_line(error)}", file=sys.stderr)
    return ready


def first_line(error):
    return f"{type(error).__name__}: {error}".strip().split("\n", 1)[0][:200]


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def offered(ours, dtypes):
    """Those of `dtypes` that the binary has."""
    found = []
    for dtype in dtypes:
        try:
            ours.check(dtype)
            found.append(dtype)
        except engines.Refused as refused:
            print(f"polyrank: not offered: {refused}", file=sys.stderr)
    return found


def measure(ours, dtypes, theirs, texts, rounds):
    """Medians by (what, engine)."""
    seen = {}

    def note(engine, **values):
        told = [f"{key.replace('_', ' ')} {value:.1f}" for key, value in values.items()]
        print("  " + ", ".join([engine, *told]), flush=True)
        for key, value in values.items():
            seen.setdefault((key, engine), []).append(value)

    for number in range(rounds):
        print(f"round {number + 1}")
        for dtype in list(dtypes):
            try:
                found = ours.measure(dtype)
            except RuntimeError as error:
                dtypes.remove(dtype)
                print(f"polyrank {dtype}: not measured: {error}", file=sys.stderr)
                continue
            rate, alone = found["texts_per_second"], found["latency_ms"]["p50"]
            note(dtype, texts_a_second=rate, ms_alone=alone, anonymous_mb=found["anonymous_mb"])
        for name, peer in theirs.items():
            rate = len(texts) / timed(lambda: peer.run(texts))
            if name == "torch-mixed":
                note(name, texts_a_second=rate)
                continue
            alone = [timed(lambda text=text: peer.run([text])) for text in texts[:ALONE]]
            note(name, texts_a_second=rate, ms_alone=1e3 * statistics.median(alone))
    return {key: statistics.median(values) for key, values in seen.items()}


def row(what, found, key, ours, peer, goals):
    """A line of the table: both figures, their ratio, and what it should reach."""
    left, right = found.get((key, ours)), found.get((key, peer))
    ratio = f"{left / right:.2f}" if left and right else ""
    cells = [what, *("not offered" if value is None else f"{value:.1f}" for value in (left, right)), ratio]
    sign = "" if key == "texts_a_second" else "at most "
    cells += [f"{sign}{goal}" for goal in goals] if goals else ["", ""]
    return f"| {' | '.join(cells)} |"


def table(found, model_type):
    lines = ["| what | polyrank | peer | ratio | at least | stretch |", "| --- | --- | --- | --- | --- | --- |"]
    for ours, peer, name, goals in THROUGHPUT:
        if (ours, peer) == ("f32", "torch-f32") and model_type.startswith("deberta"):
            goals = DEBERTA
        lines.append(row(f"texts a second, {ours} mixed, against {name}", found, "texts_a_second", ours, peer, goals))
    for ours, peer, name, goals in LATENCY:
        lines.append(row(f"ms for one text alone, {ours}, against {name}", found, "ms_alone", ours, peer, goals))
    if ("anonymous_mb", "f32") in found:
        most = f"{found['anonymous_mb', 'f32']:.0f}"
        lines.append(f"| MB of anonymous memory at most, f32 mixed | {most} | | | at most {MEMORY} | |")
    return "\n".join(lines)


def matching(names):
    """The peers that begin with one of `names`, separated by commas."""
    return [peer for peer in PEERS if peer.startswith(tuple(names.split(",")))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("polyrank", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("adapters", type=Path)
    parser.add_argument("--texts", type=Path, help="a text a line")
    parser.add_argument("--peers", type=matching, default=PEERS, help="beginnings of the names above")
    parser.add_argument("--dtypes", type=lambda names: names.split(","), default=["f32", "bf16", "int8"], help="polyrank's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    # For polyrank, and for the tokenizers of the others.
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    length = measured.counter(args.model)
    if args.texts:
        texts = args.texts.read_text(encoding="utf-8").splitlines()
    else:
        texts = measured.draw(measured.known(), length, 1024, 24, 0)
    count, adapters = chosen(args.adapters)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for path in adapters:
            shutil.copytree(path, folder / "adapters" / path.name)
        (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        ours = engines.Polyrank(args.polyrank.resolve(), args.model, folder / "adapters", folder / "texts.txt")
        dtypes = offered(ours, args.dtypes)
        found = measure(ours, dtypes, peers(args, args.peers, texts, folder), texts, args.rounds)
    mean = statistics.mean(map(length, texts))
    print(f"\n{len(texts)} texts of {mean:.1f} tokens, {len(adapters)} adapters of {count} labels, {args.threads} threads, "
          f"medians of {args.rounds} rounds\n")  # fmt: skip
    print(table(found, json.loads((args.model / "config.json").read_text())["model_type"]))


if __name__ == "__main__":
    main()
