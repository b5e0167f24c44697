#!/usr/bin/env python3
"""Makes the fuzz targets' first corpus, `fuzz/corpus`, out of the test goldens."""
import io
import json
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDENS = HERE.parent / "tests" / "goldens"


def write(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def safetensors(tensors):
    """A file of f32 tensors of ones: {name: shape}."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4
        for dim in shape:
            size *= dim
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.0) * (end // 4)


def write_parquet():
    """A Parquet file, which random bytes hardly become. Needs pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        print("no seed in Parquet: pyarrow is not installed")
        return
    table = pyarrow.table({"label": [1, 0], "sentence": ["a", "b"]})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    # The place of Parquet among the formats of the target.
    write("rows", "4", bytes([4]) + file.getvalue())


def main():
    for adapter in sorted(GOLDENS.glob("bert/*/adapter_config.json")):
        config, labels = adapter.read_bytes(), adapter.parent / "config.json"
        labels = labels.read_bytes() if labels.is_file() else b""
        weights = (adapter.parent / "adapter_model.safetensors").read_bytes()
        write("adapter", adapter.parent.name, struct.pack("<HH", len(config), len(labels)) + config + labels + weights)
    for config in [*GOLDENS.glob("bert/config.json"), *GOLDENS.glob("encoders/*/config.json")]:
        write("config", config.parent.name, config.read_bytes())
    write("base", "one", safetensors({"a": [2, 3], "classifier.bias": [2]}))
    # A header that claims 2^60 bytes.
    write("base", "claims", struct.pack("<Q", 1 << 60) + b"{}")
    for model in GOLDENS.glob("legacy/*/pytorch_model*.bin"):
        write("pickle", model.parent.name + model.name, model.read_bytes())
    tables = ["label\tsentence\n1\ta \"b\n", "text,label\n\"a, \"\"b\",1\n", '{"text": "a", "label": 1}\n']
    for number, text in enumerate([*tables, tables[2]]):
        write("rows", str(number), bytes([number]) + text.encode())
        write("rows", f"{number}-utf16", bytes([number]) + text.encode("utf-16"))
    write_parquet()
    for number, body in enumerate([
        {"inputs": "a"},
        {"inputs": ["a", {"text": "b", "text_pair": "c"}], "parameters": {"top_k": 2, "function_to_apply": "sigmoid"}},
        {"inputs": {"text": "a"}, "parameters": {"truncation": True, "max_length": 16}},
    ]):
        write("request", str(number), json.dumps(body).encode())


if __name__ == "__main__":
    main()
