"""What bench_train.py trains: a base of a given shape with random weights, and rows as ids and labels."""

import json
import shutil
from pathlib import Path
from typing import Any

from make_tiny_base import make_tiny_base

from train.chats.readers import read_rows
from train.chats.rows import Row, row_to_json
from train.encoding.loss_mask import Encoded
from train.encoding.rows import encode_rows
from train.models.load import load_tokenizer

SMALL = {"hidden_size": 512, "layers": 8}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36}
QWEN3 = {**HEADS, "vocab_size": 151936, "rope_theta": 1e6}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-4b": {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "qwen3-8b": {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
}


def make_base(folder: Path, shape: str, rows: Path) -> Path:
    """A base with random weights; the one of an earlier run if it has that shape. Its tokenizer is made from `rows`."""
    stamp = folder / "shape.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == shape:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    if shape == "small":
        make_tiny_base(folder, rows, **SMALL)
    else:
        make_tiny_base(folder, rows, hidden_size=64, layers=1)  # for its tokenizer and its special ids
        widen(folder, SHAPES[shape])
    stamp.write_text(shape, encoding="utf-8")
    return folder


def widen(folder: Path, shape: dict[str, Any]) -> None:
    """Replace the model in the folder by one of that shape, bfloat16.

    It is made in the machine's memory, of random numbers from the GPU where there is one, which need not hold it all.
    """
    import torch
    from transformers import AutoConfig, Qwen3ForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.update({**shape, "max_position_embeddings": 32768, "initializer_range": 0.02, "dtype": "bfloat16"})
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu").tie_weights()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.copy_(torch.randn(weight.shape, device=device, dtype=weight.dtype) * config.initializer_range)
        else:
            weight.data.fill_(1)  # a norm's
    model.save_pretrained(folder)


def make_rows(
    out: Path, base: Path, rows: Path, *, count: int, batch: int, length: int, order: str, fill: bool
) -> tuple[list[int], list[int]]:
    """OUT/rows.jsonl for govor and OUT/tokenized for the others: (tokens of each row, those of them that are trained).

    `fill`: join dialogues until a row has nearly `length` tokens. `order`: file, or length (rows of a batch alike).
    """
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    tokenizer = load_tokenizer(base)
    found = read_rows(rows)
    if fill:
        found = joined(tokenizer, found, length)
    found = (found * (count // max(len(found), 1) + 1))[:count]
    encoded = encode_rows(tokenizer, found, max_length=length).encoded
    if order == "length":
        from train.tuning.kernels.batches import ByLength

        places = list(ByLength([len(one.input_ids) for one in encoded], batch, 42))
        found, encoded = [found[at] for at in places], [encoded[at] for at in places]
    (out / "rows.jsonl").write_text("".join(row_to_json(row) + "\n" for row in found), encoding="utf-8")
    columns = {
        "input_ids": [one.input_ids for one in encoded],
        "attention_mask": [[1] * len(one.input_ids) for one in encoded],
        "labels": [one.labels for one in encoded],
    }
    shutil.rmtree(out / "tokenized", ignore_errors=True)
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(out / "tokenized"))
    return [len(one.input_ids) for one in encoded], [trained(one) for one in encoded]


def trained(one: Encoded) -> int:
    return sum(label != -100 for label in one.labels[1:])


def joined(tokenizer: Any, rows: list[Row], length: int) -> list[Row]:
    """Dialogues one after the other under the first one's system message, as many as fit in `length` tokens."""
    sizes = [len(one.input_ids) for one in encode_rows(tokenizer, rows, max_length=10**6).encoded]
    made: list[Row] = []
    room = 0
    for row, size in zip(rows, sizes, strict=True):
        if size > length:
            continue
        turns = [message for message in row.messages if message["role"] != "system"]
        if made and size <= room:
            made[-1] = made[-1]._replace(messages=[*made[-1].messages, *turns])
            room -= size
        else:
            made.append(row)
            room = length - size
    return made


def model_flops(base: Path, length: float, r: int) -> float:
    """FLOPs a token of LoRA training without recomputation: 4 a weight of the matrices, 6 an adapter's, attention.

    `length`: mean tokens a row. The head counts, the embedding does not.
    """
    config = json.loads((base / "config.json").read_bytes())
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    matrices = layers * sum(a * b for a, b in shapes) + hidden * config["vocab_size"]
    adapter = layers * sum(r * (a + b) for a, b in shapes)
    return 4 * matrices + 6 * adapter + 6 * layers * queries * length
