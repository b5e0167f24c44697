"""Random adapters made by PEFT, and what `transformers` + PEFT answer with them: shared by `tests/goldens/make_bert.py`
(the committed goldens of a tiny base) and `random_adapters.py` (any base).

Layout of an answer file (`expected.json`):

    {"max_length": n,
     "texts": [{"text", "text_pair"?, "ids", "type_ids", "truncated"}],
     "adapters": {name: {"logits": [[...] of each text]}}}

Every text is run alone, unpadded, in f32, through an adapter that was written and read back.
"""
import json
import logging
import math
import os
import shutil
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is read from folders
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)
torch.set_num_threads(1)  # one order of summation, so that two runs agree to the bit

BASE_NAME = "base"  # `base_model_name_or_path` of every adapter written here: no path of a machine


def plain(tensor):
    """Nested lists of the shortest decimals that give the same f32."""
    array = tensor.detach().to(torch.float32).cpu().numpy()
    return [float(str(v)) for v in array] if array.ndim == 1 else [plain(row) for row in torch.from_numpy(array)]


def write_json(path, value, **options):
    """Writes JSON with a final newline and characters as they are."""
    Path(path).write_text(json.dumps(value, ensure_ascii=False, **options) + "\n", encoding="utf-8")


def max_length(base):
    """The least of the tokenizer's limit and the positions."""
    config = json.loads((Path(base) / "config.json").read_text())
    # RoBERTa's positions, and MPNet's, begin behind the padding's.
    before = config["pad_token_id"] + 1 if "roberta" in config["model_type"] or config["model_type"] == "mpnet" else 0
    limits = [config["max_position_embeddings"] - before]
    settings = Path(base) / "tokenizer_config.json"
    if settings.exists():
        limits.append(json.loads(settings.read_text()).get("model_max_length", math.inf))
    return int(min(limits))


def encode_all(base, texts):
    """Ids of `texts` ((text, pair or None), ...) by `tokenizers` alone, checked against `transformers`."""
    limit = max_length(base)
    whole = Tokenizer.from_file(str(Path(base) / "tokenizer.json"))
    whole.no_padding()
    whole.no_truncation()
    cut = Tokenizer.from_file(str(Path(base) / "tokenizer.json"))
    cut.no_padding()
    cut.enable_truncation(limit)
    peer = AutoTokenizer.from_pretrained(base)
    rows = []
    for text, pair in texts:
        got = cut.encode(text, pair)
        want = peer(text, pair, truncation=True, max_length=limit)
        # Where the tokenizer's settings list no type ids, the model is given none, which are zeros.
        types = want.get("token_type_ids", [0] * len(got.ids))
        assert got.ids == want["input_ids"] and got.type_ids == types, (text, pair, got.ids, got.type_ids, want)
        row = {"text": text} if pair is None else {"text": text, "text_pair": pair}
        truncated = len(whole.encode(text, pair).ids) > limit
        rows.append(row | {"ids": got.ids, "type_ids": got.type_ids, "truncated": truncated})
    return rows


def load_base(base, labels):
    """The base as a classifier in f32, evaluation mode; its head is random."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, dtype=torch.float32)
    return model.eval()


def sites(base):
    """The names of all linears in the layers of the base: what an adapter may change."""
    layers = (".layer.", ".layers.")
    modules = load_base(base, 2).named_modules()
    return [name for name, module in modules if isinstance(module, torch.nn.Linear) and any(part in name for part in layers)]


def inputs(model, row):
    """What the model is given of a text; type ids only where it has a table for them."""
    given = {"input_ids": torch.tensor([row["ids"]])}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = torch.tensor([row["type_ids"]])
    return given


def logits(model, rows):
    """Logits of each text, run alone."""
    with torch.inference_mode():
        return [model(**inputs(model, row)).logits[0] for row in rows]


def randomise(model, generator):
    """Gives A, B and the heads random values: deltas of about the size of a base's own weights."""

    def normal(tensor, std):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                strength = 0.2 + 0.6 * torch.rand((), generator=generator).item()
                normal(a, a.shape[1] ** -0.5)
                normal(b, strength / (module.scaling["default"] * a.shape[0] ** 0.5))
            elif isinstance(module, ModulesToSaveWrapper):
                for parameter in module.modules_to_save["default"].parameters():
                    normal(parameter, 2 * parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.5)


def make_adapter(base, folder, labels, seed, settings, names=None):
    """Writes a random adapter by PEFT's own `save_pretrained`. `settings` go to `LoraConfig`, `names` (id2label,
    problem_type) to the `config.json` beside it; without `names` there is none."""
    generator = torch.Generator().manual_seed(seed)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, **settings)
    model = get_peft_model(load_base(base, labels), config).eval()
    randomise(model, generator)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    # PEFT writes its sets in the order of hashes, which differs from run to run, and the base's path as it was given.
    written = json.loads((folder / "adapter_config.json").read_text())
    for key, value in written.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value) and key != "modules_to_save":
            written[key] = sorted(value)
    written["base_model_name_or_path"] = BASE_NAME
    write_json(folder / "adapter_config.json", written, indent=2)
    if names is not None:
        write_json(folder / "config.json", names, indent=2)


def names(labels, problem_type=None):
    """The `config.json` that stands beside an adapter."""
    by_id = {str(i): label for i, label in enumerate(labels)}
    return {"id2label": by_id, "label2id": {label: i for i, label in enumerate(labels)}} | ({"problem_type": problem_type} if problem_type else {})


def answer(base, folder, labels, rows):
    """Logits of an adapter read back from `folder`."""
    model = PeftModel.from_pretrained(load_base(base, labels), folder).eval()
    return {"logits": [plain(row) for row in logits(model, rows)]}
