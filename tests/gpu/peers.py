#!/usr/bin/env python3
"""What PyTorch, transformers and PEFT need for what the bench `gpu` measures, as one JSON object for each measurement.

    peers.py ROW MODEL_DIR [--device cuda] [--dtype bf16] [--texts 256] [--length 128|sst2] [--adapters 32] [--seconds 4]

    ceiling     the rate of a square matrix product (MODEL_DIR is ignored); --size is its width
    mixed       a batch of texts of several adapters: by `adapter_names`, or adapter after adapter where PEFT cannot mix (DeBERTa)
    latency     one text on the merged model under `torch.compile`
    attention   DeBERTa's attention without its linears, on texts of 128 tokens
"""
import argparse
import json
import os
import random
import re
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

WARM, LEAST = 3, 5  # rounds that are not counted, and rounds that a median needs


class Peer:
    def __init__(self, args):
        self.args, self.cuda = args, args.device.startswith("cuda")
        self.dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[args.dtype]
        self.rng = random.Random(1)

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def measure(self, run, warm=WARM):
        """Sorted times of `run`, each of which ends with a synchronisation."""
        for _ in range(warm):
            run()
        self.synchronize()
        times, begin = [], time.perf_counter()
        while len(times) < LEAST or time.perf_counter() - begin < self.args.seconds:
            start = time.perf_counter()
            run()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times)

    def tell(self, row, **measured):
        args = self.args
        line = {"row": row, "base": args.model.name, "device": args.device, "dtype": args.dtype, "length": args.length}
        print(json.dumps(line | measured), flush=True)

    def model(self):
        model = AutoModelForSequenceClassification.from_pretrained(self.args.model, num_labels=2, dtype=self.dtype)
        return model.to(self.args.device).eval()

    def lengths(self, count):
        """As the bench draws them: `benches/gpu/options.rs`."""
        if self.args.length != "sst2":
            return [int(self.args.length)] * count
        dice = lambda: self.rng.randint(2, 22) + self.rng.randint(2, 22)
        return [dice() + (self.rng.randint(5, 16) if self.rng.random() < 0.05 else 0) for _ in range(count)]

    def inputs(self, lengths):
        """Random texts, padded to the longest."""
        vocabulary = AutoConfig.from_pretrained(self.args.model).vocab_size
        ids = torch.randint(vocabulary // 2, vocabulary, (len(lengths), max(lengths)))
        mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
        return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}

    def ceiling(self):
        size = self.args.size
        a, b = (torch.randn(size, size, device=self.args.device).to(self.dtype) for _ in range(2))
        times = self.measure(lambda: a @ b)
        # The best rate is the ceiling.
        self.tell("ceiling", size=size, tflops=2 * size**3 / times[0] / 1e12, median_tflops=2 * size**3 / times[len(times) // 2] / 1e12)

    def adapted(self):
        """The base with random adapters of ranks 1 to 16 at every linear of its layers."""
        from peft import LoraConfig, get_peft_model

        base = self.model()
        inside = lambda name: ".layer." in name or ".layers." in name
        sites = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and inside(name)]
        # All share the head, because PEFT mixes no heads of several layers. Ranks differ by layer: a pattern for each site would take PEFT minutes to match.
        layers = sorted({int(re.search(r"\.layers?\.(\d+)\.", site)[1]) for site in sites})
        short = sorted({re.split(r"\.layers?\.\d+\.", site)[1] for site in sites})
        names, model = [], None
        for number in range(self.args.adapters):
            pattern = {rf".*\.layers?\.{layer}\..*": self.rng.randint(1, 16) for layer in layers}
            config = LoraConfig(target_modules=short, r=8, rank_pattern=pattern, init_lora_weights=False)
            names.append(f"a{number}")
            if model is None:
                model = get_peft_model(base, config, adapter_name=names[-1])
            else:
                model.add_adapter(names[-1], config)
        return model.to(self.args.device, self.dtype).eval(), names

    def mixed(self):
        model, names = self.adapted()
        lengths = self.lengths(self.args.texts)
        inputs = self.inputs(lengths)
        owners = [names[i % len(names)] for i in range(len(lengths))]
        by_name = {name: torch.tensor([i for i, owner in enumerate(owners) if owner == name]) for name in dict.fromkeys(owners)}

        def together():
            given = {key: value.to(self.args.device) for key, value in inputs.items()}
            return model(**given, adapter_names=owners).logits.float().cpu()

        def one_by_one():
            for name, rows in by_name.items():
                longest = int(inputs["attention_mask"][rows].sum(1).max())
                given = {key: value[rows, :longest].to(self.args.device) for key, value in inputs.items()}
                model.set_adapter(name)
                model(**given).logits.float().cpu()

        deberta = "deberta" in self.args.model.name
        with torch.inference_mode():
            times = self.measure(one_by_one if deberta else together, warm=1)
        self.tell("peer-mixed", how="one by one" if deberta else "adapter_names", adapters=len(names), texts=len(lengths),
                  tokens=sum(lengths), seconds=times[len(times) // 2])  # fmt: skip

    def latency(self):
        model, inputs = self.model(), self.inputs(self.lengths(1))

        def median(model, warm):
            def run():
                given = {key: value.to(self.args.device) for key, value in inputs.items()}
                return model(**given).logits.float().cpu()

            with torch.inference_mode():
                times = self.measure(run, warm)
            return 1e3 * times[len(times) // 2]

        eager = median(model, WARM)
        self.tell("peer-latency", how="eager", tokens=inputs["input_ids"].shape[1], p50_ms=eager)
        for mode in ["default", "reduce-overhead"]:
            torch.compiler.reset()
            compiled = torch.compile(model, mode=mode, dynamic=False)
            self.tell("peer-latency", how=f"torch.compile {mode}", tokens=inputs["input_ids"].shape[1], p50_ms=median(compiled, 5))

    def attention(self):
        from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

        config = AutoConfig.from_pretrained(self.args.model)
        config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0
        attention = DisentangledSelfAttention(config)
        # The linears are not measured: what is left are scores, relative terms, softmax and the sum of values.
        attention.query_proj = attention.key_proj = attention.value_proj = torch.nn.Identity()
        attention = attention.to(self.args.device, self.dtype).eval()
        make = lambda *shape: torch.randn(*shape, device=self.args.device).to(self.dtype)
        texts, length, width = self.args.texts, 128, config.hidden_size
        x, positions = make(texts, length, width), make(2 * config.position_buckets, width)
        mask = torch.ones(texts, 1, length, length, device=self.args.device, dtype=torch.long)
        with torch.inference_mode():
            times = self.measure(lambda: attention(x, mask, rel_embeddings=positions))
        self.tell("peer-attention", texts=texts, tokens=texts * length, seconds=times[len(times) // 2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=["ceiling", "mixed", "latency", "attention"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "f16", "f32"])
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--length", default="128")
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--size", type=int, default=8192)
    args = parser.parse_args()
    getattr(Peer(args), args.row)()


if __name__ == "__main__":
    main()
