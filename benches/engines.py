"""The engines that `peers.py` puts side by side. Each answers texts with scores, tokenization included, by `run(texts)`."""
import json
import logging
import os
import subprocess
import tempfile
import threading
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is read from folders
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import numpy as np
import onnxruntime
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

warnings.filterwarnings("ignore")
logging.getLogger().setLevel(logging.ERROR)  # the exporter's and the quantiser's advice
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

BATCH = 32
AGREED = 1e-3  # how far an exported model's logits may lie from those of the model that was exported


def classifier(base, count):
    """The base with a head for `count` labels, in f32."""
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=count, dtype=torch.float32).eval()


def merged(base, count, adapter):
    """One adapter merged into its base: what a peer that knows no adapters is given."""
    return PeftModel.from_pretrained(classifier(base, count), adapter).eval().merge_and_unload()


def mixed(base, count, adapters):
    """All adapters beside their base."""
    model = PeftModel.from_pretrained(classifier(base, count), adapters[0], adapter_name=adapters[0].name)
    for path in adapters[1:]:
        model.load_adapter(path, adapter_name=path.name)
    return model.eval()


class Batches:
    """Texts as padded arrays: tokenized all at once, and sorted by their number of tokens if `sort`."""

    def __init__(self, base, sort):
        self.tokenizer, self.sort = AutoTokenizer.from_pretrained(base), sort
        assert self.tokenizer.is_fast
        self.padding = {"input_ids": self.tokenizer.pad_token_id}

    def of(self, texts):
        """Pairs of positions in `texts` and arrays `[rows, longest]` by name."""
        encoded = self.tokenizer(texts, truncation=True)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__) if self.sort else list(range(len(texts)))
        for start in range(0, len(order), BATCH):
            rows = order[start:start + BATCH]
            longest = max(lengths[row] for row in rows)
            yield rows, {name: self.padded([values[row] for row in rows], longest, name) for name, values in encoded.items()}

    def padded(self, rows, longest, name):
        array = np.full((len(rows), longest), self.padding.get(name, 0), dtype=np.int64)
        for target, row in zip(array, rows):
            target[:len(row)] = row
        return array


class Torch:
    """PyTorch eager; `names` are the adapters that texts are asked of in turn, in batches as they come."""

    def __init__(self, base, model, names=()):
        self.batches, self.model, self.names = Batches(base, sort=not names), model, list(names)

    def run(self, texts):
        with torch.inference_mode():
            for rows, arrays in self.batches.of(texts):
                inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
                mix = {"adapter_names": [self.names[row % len(self.names)] for row in rows]} if self.names else {}
                self.model(**inputs, **mix).logits.float().softmax(-1)


class Onnx:
    """ONNX Runtime on the CPU."""

    def __init__(self, base, path, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.batches = Batches(base, sort=True)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {given.name for given in self.session.get_inputs()}

    def logits(self, arrays):
        return self.session.run(None, {name: array for name, array in arrays.items() if name in self.inputs})[0]

    def run(self, texts):
        for _, arrays in self.batches.of(texts):
            logits = self.logits(arrays)
            scores = np.exp(logits - logits.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)


def export(base, model, path, texts):
    """Writes `model` to `path` for batches and texts of any length, and checks it on other `texts` than it was traced with."""
    (_, traced), *_ = Batches(base, sort=False).of(texts[:2])
    inputs = {name: torch.from_numpy(array) for name, array in traced.items()}
    any_size = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    torch.onnx.export(
        model, (), path, kwargs=inputs, input_names=list(inputs), output_names=["logits"],
        dynamic_shapes={name: any_size for name in inputs}, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    apart = difference(base, model, path, texts)
    assert apart <= AGREED, f"the exported model's logits are {apart:.1e} off"


def difference(base, model, path, texts):
    """The largest difference of logits between `model` and the file at `path`."""
    peer, worst = Onnx(base, path, 1), 0.0
    for _, arrays in peer.batches.of(texts):
        with torch.inference_mode():
            want = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits.numpy()
        worst = max(worst, float(np.abs(peer.logits(arrays) - want).max()))
    return worst


def quantised(source, target):
    """The exported model in int8: weights by output channel, activations as they come."""
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


class Refused(Exception):
    """What the engine does not offer."""


class Polyrank:
    """The binary's own `bench`, in a process of its own."""

    def __init__(self, binary, base, adapters, texts):
        self.command = [binary, "bench", "--model-id", base, "--adapters", adapters, "--repeats", "1", "--json"]
        self.texts = texts

    def check(self, dtype):
        """Raises `Refused` if the binary has no such type: usage is checked before anything else."""
        with tempfile.TemporaryDirectory() as empty:
            command = [*self.command, "--input", Path(empty) / "none.txt", "--dtype", dtype]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 2:
            raise Refused(f"--dtype {dtype}")

    def measure(self, dtype):
        """What `bench` prints, and the most anonymous memory that the process was seen with, in MB."""
        with tempfile.TemporaryFile("w+") as log:
            command = [*self.command, "--input", self.texts, "--dtype", dtype]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            peak = Peak(process.pid)
            output, _ = process.communicate()
            if process.returncode != 0:
                log.seek(0)
                raise RuntimeError(log.read().strip().rsplit("\n", 1)[-1])
        return json.loads(output) | {"anonymous_mb": peak.bytes() / 1e6}


class Peak:
    """Looks at a process's anonymous memory (`RssAnon`) until it ends."""

    def __init__(self, pid):
        self.status, self.most = Path(f"/proc/{pid}/status"), 0
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while size := self.now():
            self.most = max(self.most, size)
            time.sleep(0.01)

    def now(self):
        try:
            lines = self.status.read_text().splitlines()
        except OSError:
            return 0
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)

    def bytes(self):
        self.thread.join()
        return self.most
