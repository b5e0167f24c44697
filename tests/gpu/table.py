#!/usr/bin/env python3
"""Makes the table of `examples/reports/gpu.md` from what the bench and the peers have printed: table.py RESULTS.jsonl"""
import json
import sys
from pathlib import Path


def read(path):
    """The last measurement of each row by (row, base, length), and all of them."""
    lines = []
    for line in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"not a measurement: {line[:120]}", file=sys.stderr)
    return lines


def main():
    lines = read(sys.argv[1])

    def last(row, base=None, length=None, **same):
        found = [line for line in lines if line.get("row") == row]
        found = [line for line in found if base is None or line.get("base") == base]
        found = [line for line in found if length is None or line.get("length") == length]
        found = [line for line in found if all(line.get(key) == value for key, value in same.items())]
        return found[-1] if found else {}

    rows = []

    def tell(what, target, found, met, detail=""):
        verdict = "not run" if found is None else "" if met is None else "met" if met else "missed"
        rows.append(f"| {what} | {target} | {'' if found is None else found} | {verdict} | {detail} |")

    def ratio(what, target, value, least, detail="", percent=False):
        found = None if value is None else f"{100 * value:.1f} %" if percent else f"{value:.2f} times"
        tell(what, target, found, None if value is None else value >= least, detail)

    def divide(a, b):
        return a / b if a and b else None

    ceiling = last("ceiling").get("tflops")
    tell("bf16 product of 8192 x 8192 (torch)", "", f"{ceiling:.0f} TFLOP/s" if ceiling else None, None)
    for base, least in [("roberta-large", 0.5), ("deberta-v3-base", 0.3)]:
        for length in ["128", "sst2"]:
            mixed = last("mixed", base, length)
            rate = mixed.get("base_tflops")
            detail = f"{rate:.1f} TFLOP/s, {mixed['base_texts_per_second']:.0f} texts/s" if rate else ""
            ratio(f"{base}, texts of {length}: base alone, of the ceiling", f"{100 * least:.0f} %", divide(rate, ceiling), least, detail, True)
    ours, peer = last("attention", "deberta-v3-base").get("seconds"), last("peer-attention", "deberta-v3-base").get("seconds")
    detail = f"{1e3 * ours:.3f} ms against {1e3 * peer:.3f} ms" if ours and peer else ""
    ratio("DeBERTa's attention against transformers'", "1.75 times", divide(peer, ours), 1.75, detail)
    for base in ["roberta-large", "deberta-v3-base"]:
        for length in ["128", "sst2"]:
            mixed, peer = last("mixed", base, length), last("peer-mixed", base, length)
            value = divide(mixed.get("texts_per_second"), divide(peer.get("texts"), peer.get("seconds")))
            detail = f"{mixed['texts_per_second']:.0f} texts/s against {peer['texts'] / peer['seconds']:.0f} ({peer['how']})" if value else ""
            ratio(f"{base}, texts of {length}: {mixed.get('adapters', 32)} adapters mixed against PEFT", "5 times", value, 5, detail)
    for base in ["roberta-large", "deberta-v3-base"]:
        for length in ["128", "sst2"]:
            ratio(f"{base}, texts of {length}: adapters mixed against the base alone", "95 %", last("mixed", base, length).get("of_base"), 0.95, "", True)
    zipf = last("zipf")
    ratio(f"{zipf.get('adapters', 1000)} adapters resident, zipf, against the base alone", "90 %", zipf.get("of_base"), 0.9, zipf.get("base", ""), True)
    delta = last("delta")
    found = f"{100 * delta['worst']:.0f} % off" if delta else None
    detail = f"one wide adapter of all wide: {delta['one_wide_of_all_wide']:.2f} of the time" if delta else ""
    tell("ragged ranks: time = c0 rows + c1 sum of ranks", "15 %", found, delta["worst"] <= 0.15 if delta else None, detail)
    for how, name in [("grouped", "cuBLAS's grouped products"), ("padded", "all padded to one rank")]:
        peer, us = last("peer-delta", how=how).get("us"), delta.get("us")
        ratios = [theirs / ours for theirs, ours in zip(peer, us)] if peer and us else None
        detail = f"by the number of wide adapters: {', '.join(f'{ratio:.2f}' for ratio in ratios)}" if ratios else ""
        tell(f"the delta against {name}", "", f"{min(ratios):.2f} to {max(ratios):.2f} times" if ratios else None, None, detail)
    for base in ["roberta-large", "deberta-v3-base"]:
        ours = last("latency", base)
        peers = [line for line in lines if line.get("row") == "peer-latency" and line.get("base") == base and "compile" in line["how"]]
        best = min(peers, key=lambda line: line["p50_ms"], default={})
        value = divide(best.get("p50_ms"), ours.get("p50_ms"))
        detail = f"{ours['p50_ms']:.2f} ms against {best['p50_ms']:.2f} ms ({best['how']})" if value else ""
        ratio(f"{base}: one text's latency against the merged model under torch.compile", "1 time", value, 1, detail)
    memory = last("memory")
    over = memory.get("over")
    detail = f"{memory['used'] / 2**20:.0f} MiB used, {memory['expected'] / 2**20:.0f} MiB expected" if memory.get("used") else ""
    tell(f"device bytes of {memory.get('adapters', 1000)} adapters over the sum of their ranks", "2 %", None if over is None else f"{100 * over:.1f} %",
         None if over is None else over <= 0.02, detail)  # fmt: skip
    ours = last("training").get("tokens_per_second")
    peers = [line["tokens_per_second"] for line in lines if line.get("row") == "peer-training"]
    detail = f"{ours:.0f} tokens/s against {max(peers):.0f}" if ours and peers else ""
    ratio("SoRA training against PyTorch + PEFT LoRA", "1.3 times", divide(ours, max(peers, default=None)), 1.3, detail)

    print("| what | at least, or at most | found | | |\n| --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
