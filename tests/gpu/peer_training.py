#!/usr/bin/env python3
"""The peer for training on a GPU: PyTorch + PEFT LoRA on all linears of the layers of an encoder with random weights, in tokens a second.

    python peer_training.py --device cuda                                                           RoBERTa-large, bf16
    python peer_training.py --device cpu --hidden 32 --layers 2 --heads 2 --intermediate 64 --vocab 100 --steps 2 --warmup-steps 1

It makes the same steps as `polyrank-train bench`: the same lengths of texts, batch size, rank, and clipping, with Adam and a new batch
from the host each step. Texts are padded to the longest of their batch, and only real tokens count. It runs with factors in f32, which
is PEFT's default, and in the base's type, which is faster, and prints a line of JSON for each.
"""
import argparse
import json
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification

# Quantiles of the lengths of SST-2's training texts, as in training/src/cli/bench.rs.
LENGTHS = [3, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 8, 8, 9, 9, 10, 11, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24, 26, 29, 34, 42]

parser = argparse.ArgumentParser()
parser.add_argument("--model-type", default="roberta")
parser.add_argument("--hidden", type=int, default=1024)
parser.add_argument("--layers", type=int, default=24)
parser.add_argument("--heads", type=int, default=16)
parser.add_argument("--intermediate", type=int, default=4096)
parser.add_argument("--vocab", type=int, default=50265)
parser.add_argument("--device", default="cuda")
parser.add_argument("--dtype", default="bf16", choices=["f32", "bf16"])
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--warmup-steps", type=int, default=10)
args = parser.parse_args()

dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
cuda = args.device.startswith("cuda")
lengths = [int(length) for length in args.lengths.split(",")]


def synchronize():
    if cuda:
        torch.cuda.synchronize()


def batch(generator):
    """Random texts, padded to the longest, and their labels, on the device."""
    sizes = torch.tensor([lengths[i % len(lengths)] for i in range(args.batch_size)])
    ids = torch.randint(5, args.vocab, (args.batch_size, int(sizes.max())), generator=generator)
    mask = (torch.arange(ids.shape[1])[None] < sizes[:, None]).long()
    ids = torch.where(mask.bool(), ids, 1)
    labels = torch.randint(0, 2, (args.batch_size,), generator=generator)
    tensors = [ids, mask, labels]
    if cuda:
        tensors = [tensor.pin_memory() for tensor in tensors]
    return int(sizes.sum()), [tensor.to(args.device, non_blocking=True) for tensor in tensors]


def measure(wide_factors):
    """Tokens a second, with factors in f32 or in the base's type."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        args.model_type, hidden_size=args.hidden, num_hidden_layers=args.layers, num_attention_heads=args.heads,
        intermediate_size=args.intermediate, vocab_size=args.vocab, max_position_embeddings=514, type_vocab_size=1, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0,
        attn_implementation="sdpa",
    )
    model = AutoModelForSequenceClassification.from_config(config).to(args.device, dtype)
    linears = sorted(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layer." in name)
    lora = LoraConfig(task_type="SEQ_CLS", r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=linears)
    model = get_peft_model(model, lora, autocast_adapter_dtype=wide_factors).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.01, fused=cuda or None)
    generator = torch.Generator().manual_seed(0)
    tokens = 0
    for step in range(args.warmup_steps + args.steps):
        if step == args.warmup_steps:
            synchronize()
            tokens, start = 0, time.perf_counter()
        count, (ids, mask, labels) = batch(generator)
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += count
    synchronize()
    seconds = time.perf_counter() - start
    print(json.dumps({
        "peer": "peft-lora", "device": torch.cuda.get_device_name() if cuda else "cpu", "dtype": args.dtype,
        "factors": "f32" if wide_factors else args.dtype, "rank": args.rank, "batch_size": args.batch_size, "steps": args.steps,
        "milliseconds_per_step": 1000 * seconds / args.steps, "tokens_per_second": tokens / seconds, "loss": loss.item(),
    }), flush=True)


measure(True)
if args.dtype != "f32":
    measure(False)
