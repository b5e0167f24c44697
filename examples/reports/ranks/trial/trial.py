#!/usr/bin/env python3
"""Many SoRA and LoRA runs at once on one GPU, to try rules for gates; not an oracle.

    trial.py BASE JOBS.json RESULTS.jsonl

BASE is a folder made by prepare.py. JOBS is a list of {"task", "epochs", "runs": [...]}: the runs of a job go through the same number of
steps side by side and share every product with the frozen base, each with its own adapter, data order, seed and settings:

    score    what a rank is judged by: sal (moving average of |g dL/dg|, decay "beta"), salc (the same by parameter),
             mag (|g| |wu| |wd| / sqrt(in out)), magc (by parameter), abs (|g|), rand (a random number: the control),
             keep (the first "rank" ranks of each site from the start: a LoRA of uniform rank)
    gamma    a gate of score s shrinks to g (1 - (level / s)^gamma): 1 is the soft threshold, 0 shrinks nothing that stays
    ratio    share of the parameters to keep; it falls from 1 between "start" and "settle" of the run
    lr, glr  rate, and the gates' rate as a multiple of it; "init": "normal" starts gates at N(0, 1) instead of 1

The base runs in bf16, adapters are kept in f32. A line for each run: the validation metric of the best epoch after "settle", the test metric
there, and the ranks.
"""
import fcntl
import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RANK, ALPHA, BATCH, DROPOUT, DECAY, WARMUP = 8, 16, 32, 0.1, 0.01, 0.06
DEFAULTS = {"lr": 1e-3, "glr": 1, "ratio": 1, "start": 0.1, "settle": 0.4, "gamma": 0, "beta": 0.9}


class Base:
    """A frozen BERT or MPNet."""

    def __init__(self, folder):
        config = json.load(open(f"{folder}/config.json"))
        self.hidden, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.wide, self.layers, self.eps = config["intermediate_size"], config["num_hidden_layers"], config["layer_norm_eps"]
        self.mpnet = config["model_type"] == "mpnet"
        self.tensors = {}
        stored = np.load(f"{folder}/base.npz")
        for name in (name for name in stored.files if not name.endswith("|scale")):
            tensor = torch.tensor(stored[name], device=DEVICE).float()
            if f"{name}|scale" in stored.files:
                tensor = tensor * torch.tensor(stored[f"{name}|scale"], device=DEVICE).float()[:, None]
            self.tensors[name.removeprefix("bert.").removeprefix("mpnet.")] = tensor.bfloat16()
        attention = "attention.attn." if self.mpnet else "attention.self."
        q, k, v = "qkv" if self.mpnet else ("query", "key", "value")
        self.out = "attention.attn.o" if self.mpnet else "attention.output.dense"
        self.norm = "attention.LayerNorm" if self.mpnet else "attention.output.LayerNorm"
        layer = lambda i, name: [self.tensors[f"encoder.layer.{i}.{attention}{name}.{kind}"] for kind in ("weight", "bias")]
        self.qkv = [[torch.cat(x) for x in zip(layer(i, q), layer(i, k), layer(i, v))] for i in range(self.layers)]
        square = (self.hidden, self.hidden)
        self.sites = [*[square] * 4, (self.hidden, self.wide), (self.wide, self.hidden)] * self.layers

    def linear(self, x, name):
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def layer_norm(self, x, name):
        return F.layer_norm(x, (self.hidden,), self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], self.eps)

    def position_bias(self, length):
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        far = distance.abs()
        log = (8 + (torch.log(far.float() / 8) / math.log(128 / 8) * 8).long()).clamp(max=15)
        bucket = (distance < 0).long() * 16 + torch.where(far < 8, far, log)
        return self.tensors["encoder.relative_attention_bias.weight"][bucket.to(DEVICE)].permute(2, 0, 1)[None]


class Adapters:
    """The variables of all runs of a job, each `[runs, ...]`, in one buffer: f32 masters, and bf16 copies that the passes use."""

    def __init__(self, base, runs, labels):
        hidden = base.hidden
        shapes = [("down", (RANK, width)) for width, _ in base.sites] + [("up", (out, RANK)) for _, out in base.sites]
        if base.mpnet:
            shapes += [("head", (hidden, hidden)), ("zero", (hidden,))]
        shapes += [("head", (labels, hidden)), ("zero", (labels,)), ("gate", (len(base.sites), RANK))]
        size, at = sum(math.prod(shape) for _, shape in shapes), 0
        self.master = torch.zeros(len(runs), size, device=DEVICE)
        self.gradient = torch.zeros_like(self.master)
        self.moments = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.copy = torch.zeros_like(self.master, dtype=torch.bfloat16)
        self.copy_gradient = torch.zeros_like(self.copy)
        self.exact, self.used = [], []
        for kind, shape in shapes:
            span, view = slice(at, at + math.prod(shape)), (len(runs), *shape)
            exact = self.master[:, span].view(view)
            for i, run in enumerate(runs):
                generator = torch.Generator().manual_seed(run["seed"] * 1000003 + at)
                if kind == "down":
                    exact[i] = ((torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])).to(DEVICE)
                elif kind == "head":
                    exact[i] = (torch.randn(shape, generator=generator) * 0.02).to(DEVICE)
                elif kind == "gate":
                    normal = run.get("init") == "normal"
                    exact[i] = (torch.randn(shape, generator=generator) if normal else torch.ones(shape)).to(DEVICE)
            used = self.copy[:, span].view(view).requires_grad_()
            used.grad = self.copy_gradient[:, span].view(view)
            self.exact.append(exact)
            self.used.append(used)
            at = span.stop
        sites = len(base.sites)
        self.down, self.up, self.head, self.gate = self.used[:sites], self.used[sites : 2 * sites], self.used[2 * sites : -1], self.used[-1]
        self.gates = self.master[:, -sites * RANK :].view(len(runs), sites, RANK)
        self.gate_gradients = self.gradient[:, -sites * RANK :].view(len(runs), sites, RANK)

    def sizes(self):
        """|wu| |wd| of every rank, `[runs, sites, RANK]`."""
        sites = len(self.down)
        down = torch.stack([x.norm(dim=2) for x in self.exact[:sites]], 1)
        return down * torch.stack([x.norm(dim=1) for x in self.exact[sites : 2 * sites]], 1)


def forward(base, adapters, ids, types, lengths, train):
    """Logits `[runs, batch, labels]` of `ids [runs, batch, length]`."""
    runs, batch, length = ids.shape
    drop = (lambda x: F.dropout(x, DROPOUT, True)) if train else (lambda x: x)
    seen = torch.arange(length, device=DEVICE)[None, None] < lengths[..., None]
    bias = torch.zeros(runs * batch, 1, 1, length, device=DEVICE, dtype=torch.bfloat16)
    bias = bias.masked_fill(~seen.view(runs * batch, 1, 1, length), -1e9)
    positions = torch.arange(length, device=DEVICE) + (2 if base.mpnet else 0)
    x = base.tensors["embeddings.word_embeddings.weight"][ids] + base.tensors["embeddings.position_embeddings.weight"][positions]
    if base.mpnet:
        bias = bias + base.position_bias(length)
    else:
        x = x + base.tensors["embeddings.token_type_embeddings.weight"][types]
    bias = bias.expand(runs * batch, base.heads, length, length)
    x = drop(base.layer_norm(x, "embeddings.LayerNorm")).view(runs, batch * length, base.hidden)

    def adapted(y, x, site):
        down, up, gate = adapters.down[site], adapters.up[site], adapters.gate[:, site, None, :]
        return torch.baddbmm(y, torch.bmm(x, down.transpose(1, 2)) * gate, up.transpose(1, 2), alpha=ALPHA / RANK)

    for layer in range(base.layers):
        site, name = 6 * layer, f"encoder.layer.{layer}."
        parts = F.linear(x, *base.qkv[layer]).split(base.hidden, -1)
        heads = (runs * batch, length, base.heads, base.hidden // base.heads)
        q, k, v = [adapted(y, x, site + i).view(heads).transpose(1, 2) for i, y in enumerate(parts)]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=DROPOUT if train else 0.0)
        mixed = mixed.transpose(1, 2).reshape(runs, batch * length, base.hidden)
        h = adapted(base.linear(mixed, name + base.out), mixed, site + 3)
        x = base.layer_norm(drop(h) + x, name + base.norm)
        h = F.gelu(adapted(base.linear(x, name + "intermediate.dense"), x, site + 4))
        h = adapted(base.linear(h, name + "output.dense"), h, site + 5)
        x = base.layer_norm(drop(h) + x, name + "output.LayerNorm")
    x = x.view(runs, batch, length, base.hidden)[:, :, 0].contiguous()
    if base.mpnet:
        x = torch.tanh(torch.baddbmm(adapters.head[1][:, None], drop(x), adapters.head[0].transpose(1, 2)))
    else:
        x = torch.tanh(base.linear(x, "pooler.dense"))
    return torch.baddbmm(adapters.head[-1][:, None], drop(x), adapters.head[-2].transpose(1, 2)).float()


class Pruning:
    """Which ranks each run keeps, and how the others leave."""

    def __init__(self, base, adapters, runs, total):
        self.adapters, self.runs, self.total = adapters, runs, total
        column = lambda name: torch.tensor([float(run.get(name, DEFAULTS[name])) for run in runs], device=DEVICE)
        self.ratio, self.start, self.settle, self.gamma, self.beta = map(column, ("ratio", "start", "settle", "gamma", "beta"))
        self.kind = [run.get("score", "keep") for run in runs]
        shape = adapters.gates.shape
        cost = torch.tensor([width + out for width, out in base.sites], dtype=torch.float64, device=DEVICE)
        self.costs, self.full = cost[None, :, None].expand(shape), float(cost.sum() * RANK)
        self.root = torch.tensor([math.sqrt(width * out) for width, out in base.sites], device=DEVICE)[None, :, None]
        draw = lambda run: torch.rand(shape[1:], generator=torch.Generator().manual_seed(run["seed"] + 77))
        self.random = torch.stack([draw(run) for run in runs]).to(DEVICE)
        self.uniform = torch.tensor([kind == "keep" for kind in self.kind], device=DEVICE)
        self.saliency, self.mask = torch.zeros(shape, device=DEVICE), torch.ones(shape, device=DEVICE)
        for i, run in enumerate(runs):
            if self.kind[i] == "keep":
                self.mask[i, :, int(run.get("rank", RANK)) :] = 0
        adapters.gates.mul_(self.mask)

    def settled(self, step):
        return torch.tensor(step, device=DEVICE) >= torch.ceil(self.settle * self.total)

    def observe(self, step):
        """Before the step: the moving average, and no gradient for what is gone for good."""
        now = (self.adapters.gates * self.adapters.gate_gradients).abs()
        beta = self.beta[:, None, None]
        self.saliency = beta * self.saliency + (1 - beta) * now
        self.adapters.gate_gradients.mul_(self.final(step))

    def final(self, step):
        settled = (self.settled(step) | self.uniform)[:, None, None]
        return torch.where(settled, self.mask, torch.ones_like(self.mask))

    def scores(self):
        gates, cost = self.adapters.gates.abs(), self.costs.float()
        of = {"abs": gates, "sal": self.saliency, "salc": self.saliency / cost, "rand": self.random * self.mask}
        if any(kind.startswith("mag") for kind in self.kind):
            sizes = gates * self.adapters.sizes()
            of.update(mag=sizes / self.root, magc=sizes / cost)
        return torch.stack([of.get(kind, of["abs"])[i] for i, kind in enumerate(self.kind)])

    def shrink(self, step):
        """After the step `step` (from 0): the level that the budget allows, and the gates below it set to 0."""
        falling = lambda run: run.get("start", 0.1) * self.total <= step < math.ceil(run.get("settle", 0.4) * self.total)
        if any(kind != "keep" and falling(run) for kind, run in zip(self.kind, self.runs)):
            scores = self.scores()
            progress = (((step + 1) / self.total - self.start) / (self.settle - self.start)).clamp(0, 1)
            budget = (self.ratio + (1 - self.ratio) * (1 - progress) ** 3) * self.full
            ordered, order = scores.flatten(1).sort(dim=1, descending=True)
            fits = self.costs.flatten(1).gather(1, order).cumsum(1) <= budget.double()[:, None]
            count = fits.long().cumprod(1).sum(1)
            last = ordered.shape[1] - 1
            level = ordered.gather(1, count.clamp(max=last)[:, None])[:, 0]
            level = torch.where(count <= last, level, torch.full_like(level, -1))[:, None, None]
            stays, gamma = (scores > level).float(), self.gamma[:, None, None]
            soft = 1 - (level.clamp(min=0) / scores.clamp(min=1e-30)).clamp(max=1) ** gamma
            factor = torch.where(gamma > 0, soft, torch.ones_like(soft)) * stays
            active = (~self.settled(step) & ~self.uniform)[:, None, None]
            self.mask = torch.where(active, stays, self.mask)
            self.adapters.gates.mul_(torch.where(active, factor, torch.ones_like(factor)))
        self.adapters.gates.mul_(self.final(step))


def matthews(found, wanted):
    count = lambda a, b: ((found == a) & (wanted == b)).sum(-1).double()
    tp, tn, fp, fn = count(1, 1), count(0, 0), count(1, 0), count(0, 1)
    spread = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()
    return torch.where(spread > 0, (tp * tn - fp * fn) / spread.clamp(min=1), torch.zeros_like(spread))


class Split:
    def __init__(self, stored, name):
        even = lambda x: np.pad(x, ((0, 0), (0, -x.shape[1] % 8)))
        self.ids = torch.tensor(even(stored[f"{name}_ids"]), device=DEVICE).long()
        self.types = torch.tensor(even(stored[f"{name}_ty"]), device=DEVICE).long()
        self.lengths = stored[f"{name}_n"]
        self.labels = torch.tensor(stored[f"{name}_y"], device=DEVICE).long()

    def rows(self, rows):
        """Ids, types and lengths of `rows`, cut to the longest."""
        longest, at = -(-int(self.lengths[rows].max()) // 8) * 8, torch.tensor(rows, device=DEVICE)
        return self.ids[at, :longest], self.types[at, :longest], torch.tensor(self.lengths[rows], device=DEVICE)


def evaluate(base, adapters, runs, split, task):
    order, loss = np.argsort(split.lengths, kind="stable"), torch.zeros(runs, device=DEVICE)
    found = torch.zeros(runs, len(order), dtype=torch.long, device=DEVICE)
    for at in range(0, len(order), 128):
        rows = order[at : at + 128]
        ids, types, lengths = split.rows(rows)
        logits = forward(base, adapters, ids.expand(runs, -1, -1), types.expand(runs, -1, -1), lengths.expand(runs, -1), False)
        found[:, rows] = logits.argmax(-1)
        wanted = split.labels[rows].expand(runs, -1)
        loss += F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(-1)
    right = found == split.labels
    return matthews(found, split.labels.expand(runs, -1)) if task == "cola" else right.double().mean(-1), loss / len(order)


def step_adam(adapters, rates, multiple, decay, step):
    norm = adapters.gradient.norm(dim=1)
    adapters.gradient.mul_((1 / (norm + 1e-6)).clamp(max=1)[:, None])
    first, second = adapters.moments
    first.mul_(0.9).add_(adapters.gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(adapters.gradient, adapters.gradient, value=0.001)
    adapters.master.mul_(1 - rates * decay)
    adapters.master.sub_(rates * multiple * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8))


def run_job(base, folder, job, results):
    runs, task, epochs = job["runs"], job["task"], job["epochs"]
    stored = np.load(f"{folder}/{task}.npz")
    splits = {name: Split(stored, name) for name in ("train", "val", "test") if f"{name}_ids" in stored}
    train, count = splits["train"], min(len(stored["train_n"]), job.get("cap", 10**9))
    total, step = -(-count // BATCH) * epochs, 0
    warm = int(WARMUP * total)
    adapters = Adapters(base, runs, int(stored["train_y"].max()) + 1)
    pruning = Pruning(base, adapters, runs, total)
    adapters.copy.detach().copy_(adapters.master)
    gates = adapters.gates[0].numel()
    decay = torch.full((adapters.master.shape[1],), DECAY, device=DEVICE)
    decay[-gates:] = 0
    multiple = torch.ones_like(adapters.master)
    multiple[:, -gates:] = torch.tensor([float(run.get("glr", 1)) for run in runs], device=DEVICE)[:, None]
    peak = torch.tensor([float(run.get("lr", DEFAULTS["lr"])) for run in runs], device=DEVICE)[:, None]
    best = [{"best": -9.0, "loss": 9e9} for _ in runs]
    for epoch in range(epochs):
        orders = np.stack([np.random.RandomState(run["seed"] * 101 + epoch).permutation(count) for run in runs])
        for at in range(0, count, BATCH):
            rows = orders[:, at : at + BATCH]
            ids, types, lengths = train.rows(rows)
            logits = forward(base, adapters, ids, types, lengths, True)
            adapters.copy_gradient.zero_()
            wanted = train.labels[torch.tensor(rows, device=DEVICE)]
            F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").mean(-1).sum().backward()
            with torch.no_grad():
                adapters.gradient.copy_(adapters.copy_gradient)
                rate = step / warm if step < warm else (total - step) / max(total - warm, 1)
                pruning.observe(step)
                step_adam(adapters, peak * rate, multiple, decay, step + 1)
                pruning.shrink(step)
                adapters.copy.copy_(adapters.master)
            step += 1
        with torch.no_grad():
            scores = {name: evaluate(base, adapters, len(runs), splits[name], task) for name in splits if name != "train"}
        eligible = pruning.settled(step) | pruning.uniform
        for i, entry in enumerate(best):
            value, loss = (x[i].item() for x in scores["val"])
            if eligible[i] and (value, -loss) > (entry["best"], -entry["loss"]):
                test = round(scores["test"][0][i].item(), 4) if "test" in scores else None
                entry.update(best=round(value, 4), loss=round(loss, 4), epoch=epoch + 1, test=test)
    with open(results, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for run, entry, gates in zip(runs, best, adapters.gates):
            line = {"task": task, "epochs": epochs, **run, **entry, "ranks": (gates != 0).sum(-1).tolist()}
            file.write(json.dumps(line) + "\n")


def main():
    folder, jobs, results = sys.argv[1:4]
    torch.manual_seed(0)
    base = Base(folder)
    for job in json.load(open(jobs, encoding="utf-8")):
        run_job(base, folder, job, results)


if __name__ == "__main__":
    main()
