#!/usr/bin/env python3
"""Makes `encoders/<base>/`: a tiny random base of every architecture besides BERT, with adapters by PEFT and what `transformers` +
PEFT answer with them; and `deberta_buckets.json`, `mpnet_buckets.json` and `long_texts.json`.

    pip install -r tests/python/requirements.txt
    python tests/goldens/make_encoders.py [BASE...]          rewrites them; two runs give equal bytes

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, tokenizers 0.23.3, safetensors 0.8.0 on a CPU, Python 3.11.

Bases are saved as the hub has them: without classifiers, DeBERTa without its pooler, ModernBERT with the head of its masked
language model. `deberta` is shaped like v3, `deberta-v2` like the v2 of all options: positions of their own, a convolution,
narrow embeddings, segments. `modernbert-mean` has every bias, and pools the mean.
"""
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))
sys.path.insert(0, str(HERE))

import make_bert
import peft_goldens as goldens
import torch
from made_tokenizers import byte_level, deberta, xlm
from safetensors.torch import save_file
from tokenizers import AddedToken, processors
from transformers import (
    AutoModelForSequenceClassification, AutoTokenizer, DebertaV2Config, DistilBertConfig, ElectraConfig, ModernBertConfig, MPNetConfig,
    RobertaConfig, XLMRobertaConfig,
)  # fmt: skip
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

OUT = HERE / "encoders"
TEXTS = make_bert.TEXTS + [("a <pad> in the plot and a </s> or [SEP] too", None)]
# Twice as long as the bases' positions.
LONG = " ".join(f"the plot of film {i} is {word}" for i in range(9) for word in ("good", "bad", "never great"))
LONGEST = 128
COMMON = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2}


def corpus():
    """What tokenizers are trained on."""
    return [part for text in TEXTS for part in text if part]


def small(tokenizer, size):
    """One of `made_tokenizers.py`, of about `size` tokens."""
    return lambda: tokenizer(corpus(), size)


def word_piece():
    """BERT's."""
    made = make_bert.tokenizer()
    return made, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
                  "sep_token": "[SEP]", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}  # fmt: skip


def mpnet():
    """MPNet's: BERT's WordPiece, `<s> a </s></s> b </s>`."""
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    made, ids = make_bert.word_piece(special)
    made.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False)
    # The mask takes the space before it.
    made.add_special_tokens([*special[:-1], AddedToken("<mask>", lstrip=True)])
    return made, {"tokenizer_class": "MPNetTokenizer", "pad_token": "<pad>", "unk_token": "[UNK]", "cls_token": "<s>",
                  "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}  # fmt: skip


# name: (configuration, its arguments, tokenizer, names that the base keeps, default targets, `modules_to_save`)
BASES = {
    "roberta": (RobertaConfig, dict(max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5),
                small(byte_level, 300), ("roberta.",), ["query", "value", "output.dense"], ["classifier"]),
    "xlm-roberta": (XLMRobertaConfig, dict(max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5),
                    small(xlm, 150), ("roberta.",), ["key", "intermediate.dense"], ["classifier"]),
    "electra": (ElectraConfig, dict(max_position_embeddings=64, embedding_size=12), word_piece,
                ("electra.",), ["query", "value"], ["classifier"]),
    "distilbert": (DistilBertConfig, dict(dim=16, n_heads=4, hidden_dim=24, n_layers=2, max_position_embeddings=64), word_piece,
                   ("distilbert.",), ["q_lin", "v_lin", "lin2"], ["classifier", "pre_classifier"]),
    "deberta": (DebertaV2Config, dict(
        max_position_embeddings=64, relative_attention=True, position_buckets=8, max_relative_positions=-1, share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False, pos_att_type=["p2c", "c2p"], type_vocab_size=0,
        pad_token_id=0), small(deberta, 150), ("deberta.",), ["query_proj", "value_proj"], ["classifier", "pooler"]),
    "deberta-v2": (DebertaV2Config, dict(
        max_position_embeddings=64, relative_attention=True, max_relative_positions=20, share_att_key=False, pos_att_type="c2p|p2c",
        position_biased_input=True, type_vocab_size=2, embedding_size=12, conv_kernel_size=3, conv_act="gelu", pad_token_id=0),
        small(deberta, 150), ("deberta.",), ["query_proj", "pos_key_proj", "output.dense"], ["classifier", "pooler"]),
    "modernbert": (ModernBertConfig, dict(num_hidden_layers=4, max_position_embeddings=64, local_attention=8, pad_token_id=0,
        cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3), word_piece,
        ("model.", "head."), ["Wqkv", "mlp.Wo"], ["classifier"]),
    "modernbert-mean": (ModernBertConfig, dict(max_position_embeddings=64, local_attention=4, pad_token_id=0, cls_token_id=2,
        sep_token_id=3, bos_token_id=2, eos_token_id=3, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
        classifier_pooling="mean", global_attn_every_n_layers=2), word_piece,
        ("model.",), ["Wqkv", "attn.Wo", "mlp.Wi"], ["classifier", "head"]),
    "mpnet": (MPNetConfig, dict(max_position_embeddings=66, layer_norm_eps=1e-5), mpnet, ("mpnet.",), ["q", "v", "output.dense"],
              ["classifier"]),
}  # fmt: skip


def make_base(name):
    """The base: random and large, so that every parameter shows in the logits."""
    kind, arguments, tokenizer, kept, _, _ = BASES[name]
    made, settings = tokenizer()
    common = {} if kind is DistilBertConfig else COMMON
    config = kind(**(common | {"vocab_size": made.get_vocab_size()} | arguments))
    model = AutoModelForSequenceClassification.from_config(config)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in parameter_name.lower() and parameter_name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.25 * torch.randn(parameter.shape, generator=generator))
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tensors = {key: tensor for key, tensor in model.state_dict().items() if key.startswith(kept)}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)
    made.save(str(out / "tokenizer.json"))
    goldens.write_json(out / "tokenizer_config.json", settings | {"model_max_length": 512}, indent=2)


def make_adapters(name):
    """A plain adapter; one with a rank and an alpha for every site; one with rsLoRA that leaves the first layer alone."""
    _, _, _, _, targets, saved = BASES[name]
    out = OUT / name
    sites = goldens.sites(out)
    later = [site for site in sites if ".1." in site]
    every = {"target_modules": sites, "r": 8, "lora_alpha": 16, "modules_to_save": saved,
             "rank_pattern": {site: 1 + (3 * i) % 7 for i, site in enumerate(sites)},
             "alpha_pattern": {site: 2 + (5 * i) % 17 for i, site in enumerate(sites)}}  # fmt: skip
    adapters = {
        "plain": (2, {"target_modules": targets, "r": 3, "lora_alpha": 6, "modules_to_save": saved}, None),
        "ragged": (3, every, goldens.names(["negative", "neutral", "positive"], "single_label_classification")),
        "later": (5, {"target_modules": later[::2], "r": 2, "lora_alpha": 3, "use_rslora": True, "modules_to_save": saved}, None),
    }
    rows = goldens.encode_all(out, TEXTS)
    answers = {}
    for seed, (adapter, (labels, settings, beside)) in enumerate(adapters.items()):
        goldens.make_adapter(out, out / adapter, labels, seed, dict(settings), beside)
        answers[adapter] = goldens.answer(out, out / adapter, labels, rows)
    expected = {"max_length": goldens.max_length(out), "texts": rows, "adapters": answers}
    goldens.write_json(out / "expected.json", expected)


def make_buckets():
    """The bucket of every distance, of v3's table and of small ones."""
    tables = []
    for size, reach in [(256, 512), (8, 64), (6, 20)]:
        buckets = make_log_bucket_position(torch.arange(reach), size, reach).long().tolist()
        tables.append({"size": size, "reach": reach, "buckets": buckets})
    goldens.write_json(HERE / "deberta_buckets.json", tables)
    buckets = MPNetEncoder.relative_position_bucket(torch.arange(-600, 601)).tolist()
    goldens.write_json(HERE / "mpnet_buckets.json", buckets)


def make_long():
    """Answers to a text that is longer than `max_position_embeddings`, of bases that know only distances."""
    answers = {}
    for name in ("deberta", "modernbert"):
        tokens = AutoTokenizer.from_pretrained(OUT / name)(LONG, truncation=True, max_length=LONGEST)
        assert len(tokens["input_ids"]) == LONGEST
        row = {"ids": tokens["input_ids"], "type_ids": [0] * LONGEST}
        answers[name] = {"ids": row["ids"], "logits": goldens.answer(OUT / name, OUT / name / "ragged", 3, [row])["logits"][0]}
    goldens.write_json(HERE / "long_texts.json", {"text": LONG, "max_length": LONGEST, "bases": answers})


def main():
    for name in sys.argv[1:] or BASES:
        make_base(name)
        make_adapters(name)
        print(name)
    make_buckets()
    make_long()


if __name__ == "__main__":
    main()
