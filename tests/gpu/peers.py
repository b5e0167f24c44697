#!/usr/bin/env python3
"""What PyTorch, transformers and PEFT need for what the bench `gpu` measures, as one JSON object for each measurement.

    peers.py ROW MODEL_DIR [--device cuda] [--dtype bf16] [--texts 256] [--length 128|sst2 ...] [--adapters 32] [--seconds 4]

    ceiling     the rate of a square matrix product (MODEL_DIR is ignored); --size is its width
    mixed       a batch of texts of several adapters, for each length: by `adapter_names`, or adapter after adapter where PEFT cannot mix (DeBERTa)
    latency     one text on the merged model under `torch.compile`
    attention   DeBERTa's attention without its linears, on texts of 128 tokens
    delta       the low-rank deltas of the bench's row `delta`: by cuBLAS's grouped product (on a GPU), and all padded to one rank
"""
import argparse
import ctypes
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


class GroupedProducts:
    """`cublasGemmGroupedBatchedEx`, which PyTorch does not offer: products of several sizes in one call."""

    N, T, BF16, FLOAT = 0, 1, 14, 68

    def __init__(self):
        # PyTorch has loaded it.
        for version in [13, 12]:
            try:
                self.library = ctypes.CDLL(f"libcublas.so.{version}")
                break
            except OSError:
                pass
        self.handle = ctypes.c_void_p()
        self.check(self.library.cublasCreate_v2(ctypes.byref(self.handle)))
        self.check(self.library.cublasSetStream_v2(self.handle, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)))

    @staticmethod
    def check(status):
        if status != 0:
            raise RuntimeError(f"cuBLAS answered {status}")

    def plan(self, first, factors, beta):
        """A call that computes `c = a' b + beta c` for each (m, n, k, a, lda, b, ldb, c, ldc), column by column; a' is the transpose if `first` is T."""
        count = len(factors)
        ints = lambda values: (ctypes.c_int * count)(*values)
        m, n, k, lda, ldb, ldc = (ints(factor[i] for factor in factors) for i in [0, 1, 2, 4, 6, 8])
        pointers = [torch.tensor([factor[i].data_ptr() for factor in factors], device="cuda") for i in [3, 5, 7]]
        a, b, c = (ctypes.c_void_p(pointer.data_ptr()) for pointer in pointers)
        floats = lambda value: (ctypes.c_float * count)(*[value] * count)
        alphas, betas, ones = floats(1.0), floats(beta), ints([1] * count)
        firsts, seconds = ints([first] * count), ints([self.N] * count)

        def call(_kept=pointers):
            self.check(self.library.cublasGemmGroupedBatchedEx(
                self.handle, firsts, seconds, m, n, k, alphas, a, self.BF16, lda, b, self.BF16, ldb, betas, c, self.BF16, ldc,
                ctypes.c_int(count), ones, self.FLOAT))  # fmt: skip

        return call


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
        line = {"row": row, "base": args.model.name, "device": args.device, "dtype": args.dtype, "length": args.length[0]}
        print(json.dumps(line | measured), flush=True)

    def model(self):
        model = AutoModelForSequenceClassification.from_pretrained(self.args.model, num_labels=2, dtype=self.dtype)
        return model.to(self.args.device).eval()

    def lengths(self, count, length):
        """As the bench draws them: `benches/gpu/options.rs`."""
        if length != "sst2":
            return [int(length)] * count
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
        # Loading the adapters takes longer than the measurements.
        model, names = self.adapted()
        for length in self.args.length:
            self.mixed_of(model, names, length)

    def mixed_of(self, model, names, length):
        lengths = self.lengths(self.args.texts, length)
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
                  tokens=sum(lengths), seconds=times[len(times) // 2], length=length)  # fmt: skip

    def latency(self):
        model, inputs = self.model(), self.inputs(self.lengths(1, self.args.length[0]))

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

    def delta(self):
        """`y + x A^T B^T`, hidden to hidden, for the mixes of `benches/gpu/delta.rs`; microseconds for each."""
        adapters, narrow, wide_rank, calls = max(self.args.adapters, 2), 2, 64, 8
        hidden = AutoConfig.from_pretrained(self.args.model).hidden_size
        make = lambda *shape: torch.randn(*shape, device=self.args.device).to(self.dtype) / 30
        full = -(-self.args.texts * 128 // adapters)
        found = {"padded": [], "grouped": []}
        for rows in [full, -(-full // 2)]:
            for wide in [0, 1, adapters // 4, adapters // 2, adapters]:
                ranks = [wide_rank if i < wide else narrow for i in range(adapters)]
                x, y = make(adapters, rows, hidden), make(adapters, rows, hidden)
                a, b = [make(rank, hidden) for rank in ranks], [make(rank, hidden) for rank in ranks]
                padded = [torch.stack([torch.nn.functional.pad(t, (0, 0, 0, max(ranks) - len(t))) for t in side]) for side in [a, b]]
                expected = torch.baddbmm(y, torch.bmm(x, padded[0].mT), padded[1])

                def together():
                    for _ in range(calls):
                        torch.baddbmm(y, torch.bmm(x, padded[0].mT), padded[1])

                runs = {"padded": together}
                if self.cuda and self.args.dtype == "bf16":
                    blas, h = GroupedProducts(), [make(rows, rank) for rank in ranks]
                    sizes = list(zip(ranks, a, b, h, x, y))
                    shrink = blas.plan(blas.T, [(rank, rows, hidden, a, hidden, x, hidden, h, rank) for rank, a, b, h, x, y in sizes], 0.0)
                    expand = blas.plan(blas.N, [(hidden, rows, rank, b, hidden, h, rank, y, hidden) for rank, a, b, h, x, y in sizes], 1.0)
                    shrink(), expand()
                    worst = (y.float() - expected.float()).abs().max().item()
                    assert worst < 0.05 * expected.float().abs().max().item(), f"grouped products are off by {worst}"
                    runs["grouped"] = lambda: [(shrink(), expand()) for _ in range(calls)]
                for how, run in runs.items():
                    times = self.measure(run)
                    found[how].append(1e6 * times[len(times) // 2] / calls)
        for how, us in found.items():
            if us:
                self.tell("peer-delta", how=how, adapters=adapters, us=us)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=["ceiling", "mixed", "latency", "attention", "delta"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "f16", "f32"])
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--length", nargs="+", default=["128"])
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--size", type=int, default=8192)
    args = parser.parse_args()
    getattr(Peer(args), args.row)()


if __name__ == "__main__":
    main()
