#!/usr/bin/env python3
"""Makes `legacy/`: bases as older repositories on the hub hold them, and the ids that their tokenizers give.

    pip install -r tests/python/requirements.txt sentencepiece==0.2.3
    python tests/goldens/make_legacy.py          rewrites tests/goldens/legacy

`deberta` is the tiny base of `encoders/deberta` under a SentencePiece model trained here (with the normaliser of DeBERTa-v3's), as
`pytorch_model.bin` by `torch.save` and `spm.model`, without safetensors and without `tokenizer.json`: the layout of DeBERTa-v3's
repositories. `bert` has a `vocab.txt` and two shards of safetensors, half of them f16; `roberta` has `vocab.json` and `merges.txt`.
`expected.json` has ids of texts by SentencePiece itself, and by `transformers`' tokenizers over the same vocabularies.
"""
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))
sys.path.insert(0, str(HERE))

import make_bert
import make_encoders
import peft_goldens as goldens
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, DebertaV2Config

OUT = HERE / "legacy"
TEXTS = [text for text, pair in make_bert.TEXTS if pair is None] + [
    "  two  spaces, a\ttab and ﬁ ligatures: Ⅷ ½ ", "full-width ＡＢＣ and é or é", "",
]  # fmt: skip


def deberta():
    out = OUT / "deberta"
    out.mkdir()
    corpus = OUT / "corpus.txt"
    corpus.write_text("\n".join(make_encoders.corpus() * 4), encoding="utf-8")
    os.chdir(OUT)  # the model keeps its trainer's arguments, paths among them
    # DeBERTa-v3's own: special tokens are pieces 0 to 3.
    sentencepiece.SentencePieceTrainer.train(
        input="corpus.txt", model_prefix="deberta/spm", vocab_size=150, model_type="unigram", pad_id=0, bos_id=1, eos_id=2,
        unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", character_coverage=1.0,
        normalization_rule_name="nmt_nfkc", minloglevel=2, hard_vocab_limit=False)  # fmt: skip
    corpus.unlink()
    (out / "spm.vocab").unlink()
    spm = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    kind, arguments = make_encoders.BASES["deberta"][:2]
    # One more for the mask, which is no piece.
    config = kind(**(make_encoders.COMMON | {"vocab_size": spm.get_piece_size() + 1} | arguments))
    model = AutoModelForSequenceClassification.from_config(config)
    generator = torch.Generator().manual_seed(21)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("deberta.")}
    torch.save(state, out / "pytorch_model.bin")
    config.save_pretrained(out)
    goldens.write_json(out / "tokenizer_config.json", {"do_lower_case": False, "vocab_type": "spm"})
    save_file(state, OUT / "deberta.safetensors", metadata={"format": "pt"})
    return [[1, *spm.encode(text), 2] for text in TEXTS]


def bert():
    out = OUT / "bert"
    out.mkdir()
    source = HERE / "bert"
    made = Tokenizer.from_file(str(source / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    by_id = sorted(made.get_vocab().items(), key=lambda item: item[1])
    (out / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in by_id), encoding="utf-8")
    shutil.copy(source / "config.json", out / "config.json")
    tensors = load_file(source / "model.safetensors")
    weight_map = {}
    for shard, names in enumerate([sorted(tensors)[::2], sorted(tensors)[1::2]], 1):
        name = f"model-0000{shard}-of-00002.safetensors"
        save_file({key: tensors[key].half() if shard == 2 else tensors[key] for key in names}, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, name)
    goldens.write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return [made.encode(text).ids for text in TEXTS]


def roberta():
    out = OUT / "roberta"
    out.mkdir()
    source = HERE / "encoders" / "roberta"
    made = Tokenizer.from_file(str(source / "tokenizer.json"))
    made.model.save(str(out))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, out / name)
    return [made.encode(text).ids for text in TEXTS]


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    ids = {"deberta": deberta(), "bert": bert(), "roberta": roberta()}
    goldens.write_json(OUT / "expected.json", {"texts": TEXTS, "ids": ids})


if __name__ == "__main__":
    main()
