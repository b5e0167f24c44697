#!/usr/bin/env python3
"""Makes `bert/`: a tiny random BERT, adapters for it by PEFT, and what `transformers` + PEFT answer with them.

    pip install -r tests/python/requirements.txt
    python tests/goldens/make_bert.py          rewrites tests/goldens/bert; two runs give equal bytes

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, tokenizers 0.23.3, safetensors 0.8.0 on a CPU, Python 3.11.

The base is saved like a sentence-embedding model: names under `bert.`, with a pooler, without a classifier. Its
`tokenizer.json` carries a truncation to 40 tokens and a padding to 48, and its `tokenizer_config.json` a
`model_max_length` above the positions: a reader must heed none of the three.
"""
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

import peft_goldens as goldens
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

OUT = HERE / "bert"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """the a of and to in is was it this that not very good bad great poor film movie acting plot story cafe
ever never best worst boring fun we i you they loved hated like play""".split()
PIECES = ["##s", "##ed", "##ing", "##ly", "##er", "##est", "##ful", "##less", "##un"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
TEXTS = [
    ("good", None),
    ("The plot was not very good.", None),
    ("A great movie, and the acting is THE best ever!", None),
    ("", None),
    ("I loved this café; you never hated boring stories?", None),
    ("unfilmed zyx's 42 films in 日本 ☃", None),
    ("this film is fun and this story is great and " * 12, None),
    ("The movie was boring.", "It was not fun."),
    ("worst", "the best movie ever, they liked it very much and we loved the playful acting of it"),
    ("we hated the plot and the story of this movie " * 5, "but you like the film and the acting is good " * 4),
    ("bad film, poor story, worst acting: is it not the best of the movies that we loved to hate, and " * 2, None),
]


def word_piece(special):
    """Lower-case WordPiece of about 140 tokens, of which `special` come first; and its ids."""
    tokens = special + list("0123456789.,!?';:") + LETTERS + [f"##{c}" for c in LETTERS] + WORDS + PIECES
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made, vocabulary


def tokenizer():
    """BERT's, with segments."""
    made, vocabulary = word_piece(SPECIAL)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    made.add_special_tokens(SPECIAL)
    made.enable_truncation(40)
    made.enable_padding(length=48)
    return made


def make_base():
    """The base: weights, norms and biases are random and large, so that every one of them shows in the logits."""
    made = tokenizer()
    config = BertConfig(
        vocab_size=made.get_vocab_size(), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, type_vocab_size=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("bert.")}
    save_file(tensors, OUT / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["BertModel"]
    config.save_pretrained(OUT)
    made.save(str(OUT / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512} | special
    goldens.write_json(OUT / "tokenizer_config.json", settings, indent=2)


MODULES = [
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "intermediate.dense", "output.dense",
]  # fmt: skip
SITES = [f"bert.encoder.layer.{layer}.{module}" for layer in range(3) for module in MODULES]
PRESENT = [SITES[i] for i in (8, 11, 14, 17)]
RANKS = [1, 4, 9, 2, 7, 3, 5, 8, 6, 1, 2, 9, 3, 4, 1, 6, 2, 5]

# name: (labels, LoraConfig's arguments, config.json beside it or None)
ADAPTERS = {
    # One rank everywhere, modules by suffix; `dense` alone would hit the pooler too.
    "plain": (2, dict(r=4, lora_alpha=8, target_modules=["query", "value", "intermediate.dense"]), None),
    # A rank and an alpha of its own for every site, by full name.
    "ragged": (
        3,
        dict(r=8, lora_alpha=16, target_modules=SITES, rank_pattern=dict(zip(SITES, RANKS)),
             alpha_pattern={site: 2 + (5 * i) % 17 for i, site in enumerate(SITES)}),
        goldens.names(["negative", "neutral", "positive"], "single_label_classification"),
    ),
    # alpha / sqrt(r), with each module's own r and alpha.
    "rslora": (
        4,
        dict(r=2, lora_alpha=3, use_rslora=True, target_modules=["key", "attention.output.dense"],
             rank_pattern={"layer.0.attention.output.dense": 5, "layer.2.attention.self.key": 1}, alpha_pattern={"key": 2}),
        None,
    ),
    # Two sites of layer 1 and two of layer 2: layer 0 is the base's own.
    "absent": (2, dict(r=3, lora_alpha=6, target_modules=PRESENT, rank_pattern={PRESENT[1]: 1}),
               goldens.names(["no", "yes"])),
    # A string is a regular expression over the whole name.
    "regex": (2, dict(r=2, lora_alpha=4, target_modules=r".*layer\.[02]\.(attention\.self\.(query|key)|output\.dense)"), None),
    # Patterns that overlap: the first key wins, a key may match in the middle of dots, `output.dense` is a suffix of two modules.
    "patterns": (
        5,
        dict(r=2, lora_alpha=4, target_modules=["query", "value", "output.dense"],
             rank_pattern={"attention.output.dense": 3, "layer.1.*query": 5, "output.dense": 1, "query": 4},
             alpha_pattern={"bert.encoder.layer.2.output.dense": 7, "layer.[01].output.dense": 3, "output.dense": 5, "self.query": 2}),
        goldens.names(["toxic", "rude", "spam", "off topic", "fine"], "multi_label_classification"),
    ),
    # Module names that `exclude_modules` and `layers_to_transform` cut down again.
    "layers": (
        2,
        dict(r=2, lora_alpha=2, target_modules=["query", "key", "output.dense"], exclude_modules=["attention.output.dense"],
             layers_to_transform=[1, 2], layers_pattern="layer"),
        None,
    ),
    "bighead": (17, dict(r=2, lora_alpha=8, target_modules=["value"]), goldens.names([f"topic {i}" for i in range(17)])),
    "onelabel": (1, dict(r=1, lora_alpha=4, target_modules=["value", "intermediate.dense"]),
                 goldens.names(["similarity"], "regression")),
    # A pooler of its own.
    "pooler": (3, dict(r=2, lora_alpha=4, target_modules=["query"], modules_to_save=["classifier", "pooler"]), None),
    # PEFT writes `all-linear` out as names, `bert.pooler.dense` among them; `modules_to_save` keeps that one from being a target.
    "all_linear": (2, dict(r=1, lora_alpha=2, target_modules="all-linear", modules_to_save=["classifier", "pooler"]), None),
}  # fmt: skip


def main():
    make_base()
    rows = goldens.encode_all(OUT, TEXTS)
    answers = {}
    for seed, (name, (labels, settings, beside)) in enumerate(ADAPTERS.items()):
        goldens.make_adapter(OUT, OUT / name, labels, seed, dict(settings), beside)
        answers[name] = goldens.answer(OUT, OUT / name, labels, rows)
    encoder = goldens.load_base(OUT, 2).bert
    base = {"texts": [1, 7], "hidden": [], "pooled": []}
    with torch.inference_mode():
        for row in (rows[i] for i in base["texts"]):
            out = encoder(input_ids=torch.tensor([row["ids"]]), token_type_ids=torch.tensor([row["type_ids"]]))
            base["hidden"].append(goldens.plain(out.last_hidden_state[0]))
            base["pooled"].append(goldens.plain(out.pooler_output[0]))
    goldens.write_json(OUT / "expected.json", {"max_length": goldens.max_length(OUT), "texts": rows, "adapters": answers, "base": base})


if __name__ == "__main__":
    main()
