"""The files of a merged model: the base's, with the adapter in the weights, one tensor in memory at a time."""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from train.core.config import Config
from train.core.errors import BaseError, RunError
from train.core.files import require_disk_space
from train.core.progress import track
from train.core.runs import Run
from train.merging.drift import Target
from train.merging.merge_tensors import NeedsWholeModelError, TensorMerger, to_tensor
from train.models.base import read_json
from train.models.load import load_base, load_run_tokenizer, require_safe_adapter, resolve_precision
from train.models.safetensors_files import (
    BYTES,
    INDEX_FILE,
    PlannedTensor,
    StoredTensor,
    read_headers,
    weight_files,
    write_shard,
)
from train.models.save import copy_tokenizer, write_generation_config

STORED_AS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
TYPE_OF = {stored: name for name, stored in STORED_AS.items()}
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")
"""What stands beside a base's weights and goes with them."""


def write_merged(run: Run, base: Path, target: Target, device: str, folder: Path) -> str:
    """Write every file of the merged model; returns the type of its weights."""
    config, tokenizer = run.config(), load_run_tokenizer(run, run.adapter)
    values = read_json(base / "config.json")
    if values.get("quantization_config"):
        kind = values["quantization_config"].get("quant_method", "quantised")
        raise BaseError(
            f"{config.model.name_or_path} is stored quantised ({kind}): an adapter merges into a 16-bit base"
        )
    files = weight_files(base)
    try:
        stored = read_headers(files)
    except BaseError as error:
        raise BaseError(f"{error}: fetch the base again") from None
    try:
        merger = TensorMerger(base, run.adapter, config.model, stored, device)
        if target == "nf4":
            merger.unpack_nf4(base, config.model, resolve_precision(config))
    except NeedsWholeModelError as why:
        if target == "nf4":
            raise RunError(f"{why}: such a run merges into the base only, --target 16bit") from None
        print(f"{why}: merging with the whole model in memory", file=sys.stderr, flush=True)
        dtype = write_whole_model(run, base, config, folder)
    else:
        for file in (file for pattern in COPIED for file in base.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
        dtype = write_shards(merger, files, STORED_AS.get(config.model.dtype), folder)
        text = _config_json(values, dtype, untied=bool(untied_parameters(merger)))
        (folder / "config.json").write_text(text, encoding="utf-8")
    copy_tokenizer(run.adapter, tokenizer, folder)
    write_generation_config(base, tokenizer, config.generation, run.end_of_turn(), folder)
    return dtype


class _MergedTensor(NamedTuple):
    """One tensor of the merged model."""

    key: str
    """Its name in the file."""
    name: str | None
    """Name of its parameter in the model; None where the model has no place for it."""
    stored: StoredTensor
    planned: PlannedTensor


def write_shards(merger: TensorMerger, files: Sequence[Path], dtype: str | None, folder: Path) -> str:
    """The base's weight files under their names, merged; returns the type of most weights, as torch names it.

    `dtype`: of every floating-point weight, as safetensors names it; None leaves each the type that it has.
    """
    places = plan_tensors(merger, dtype)
    total = sum(place.planned.size for place in places)
    require_disk_space(folder, total, "the merged model")
    by_file = [(file, [place for place in places if place.stored.file == file]) for file in files]
    tensors = (place for _, here in by_file for place in here)
    data = (_data(merger, place) for place in track(tensors, "merging tensors", len(places)))
    for file, here in by_file:
        write_shard(folder / file.name, {p.key: p.planned for p in here}, islice(data, len(here)))
    if files[0].name != "model.safetensors":
        weight_map = {place.key: place.stored.file.name for place in sorted(places)}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    sizes = dict.fromkeys(TYPE_OF, 0)
    for place in places:
        sizes[place.planned.dtype] = sizes.get(place.planned.dtype, 0) + place.planned.size
    return TYPE_OF[max(TYPE_OF, key=lambda kind: sizes[kind])]


def plan_tensors(merger: TensorMerger, dtype: str | None) -> list[_MergedTensor]:
    """Every tensor to be written, those of the widest numbers first, so that each begins at a multiple of its width."""

    def planned(stored: StoredTensor) -> PlannedTensor:
        kind = dtype if dtype and stored.dtype in BYTES else stored.dtype
        return PlannedTensor(kind, stored.shape, stored.size * BYTES.get(kind, 1) // BYTES.get(stored.dtype, 1))

    places = [_MergedTensor(key, merger.names[key], stored, planned(stored)) for key, stored in merger.stored.items()]
    for name in untied_parameters(merger) - set(merger.names.values()):
        places.append(_MergedTensor(name, name, merger.source(name), planned(merger.source(name))))
    return sorted(places, key=lambda place: -place.planned.size // max(1, math.prod(place.planned.shape)))


def untied_parameters(merger: TensorMerger) -> set[str]:
    """Parameters that shared one weight in the base (embedding and head) and no longer do."""
    pairs = merger.tied.items()
    return {name for pair in pairs if any(map(merger.is_changed, pair)) for name in pair}


def _data(merger: TensorMerger, place: _MergedTensor) -> Any:
    """The tensor's bytes, or where they lie in the base."""
    import torch

    if place.name is not None and merger.is_changed(place.name):
        tensor = merger.value(place.name)
    elif place.planned.dtype != place.stored.dtype:
        tensor = to_tensor(place.stored)
    else:
        return place.stored
    written = tensor.to(getattr(torch, TYPE_OF[place.planned.dtype])).cpu().contiguous()
    return written.view(-1).view(torch.uint8).numpy()


def _config_json(values: Mapping[str, Any], dtype: str, *, untied: bool) -> str:
    """The base's config.json as text, with what the merge has changed: type, quantization, a head of its own."""
    changed = {
        key: value for key, value in values.items() if key not in ("quantization_config", "torch_dtype", "dtype")
    }
    changed["dtype"] = dtype
    text = values.get("text_config")
    if isinstance(text, dict):
        changed["text_config"] = {key: dtype if key in ("dtype", "torch_dtype") else text[key] for key in text}
    if untied:
        changed["tie_word_embeddings"] = False
        if isinstance(text, dict) and "tie_word_embeddings" in text:
            changed["text_config"]["tie_word_embeddings"] = False
    return json.dumps(changed, indent=2, ensure_ascii=False) + "\n"


def write_whole_model(run: Run, base: Path, config: Config, folder: Path) -> str:
    """PEFT's own merge, for adapters that change more than one tensor at a time; returns the type of the weights."""
    from peft import PeftModel

    precision = resolve_precision(config)
    if config.model.dtype == "auto":
        precision = precision._replace(weights="auto")  # the type of the base's own files
    whole = config.model.model_copy(update={"load_in_4bit": False})
    loaded = load_base(whole, base, precision, use_cpu=True)
    try:
        require_safe_adapter(run.adapter)
        merged = PeftModel.from_pretrained(loaded, run.adapter).merge_and_unload(safe_merge=True)
    except Exception as error:  # a kind of adapter that has nothing to merge, another base's, …
        reason = str(error).strip().split("\n", 1)[0]
        raise RunError(f"{run.adapter} cannot be merged into {config.model.name_or_path}: {reason}") from None
    require_disk_space(folder, merged.get_memory_footprint(), "the merged model")
    merged.save_pretrained(folder)
    return str(merged.dtype).removeprefix("torch.")
