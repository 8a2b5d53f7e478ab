"""What stands beside the weights in every folder that govor writes: tokenizer, chat template, generation settings."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from train.core.config import Generation
from train.models.base import chat_template_source, read_json, stop_ids

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


GENERATION_FILE = "generation_config.json"


SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")  # an old base names them in config.json alone


SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that only sampling uses."""


TEMPLATE_FILE = "chat_template.jinja"  # transformers prefers it to the template inside tokenizer_config.json


def put_over_unchanged_base(folder: Path, initial: dict[str, Any]) -> None:
    """Rewrite a saved adapter whose first weights (`initial`) were taken out of the base to one over the base itself.

    W' = (W - s·B₀A₀) + s·BA = W + s·[B, -B₀][A; A₀]: an adapter of twice the rank with the same scaling s.
    """
    import torch
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    for name, first in initial.items():
        if ".lora_A." in name:
            weights[name] = torch.cat([weights[name], first.to(weights[name])], dim=0)
        elif ".lora_B." in name:
            weights[name] = torch.cat([weights[name], -first.to(weights[name])], dim=1)
    save_file(weights, file, metadata={"format": "pt"})
    config = LoraConfig.from_pretrained(folder)
    config.r, config.init_lora_weights = 2 * config.r, True
    config.lora_alpha *= 2**0.5 if config.use_rslora else 2  # s is lora_alpha / √r, or lora_alpha / r
    config.save_pretrained(folder)


def copy_tokenizer(base: Path, tokenizer: Any, target: Path) -> None:
    """The base's tokenizer files verbatim, and its chat template frozen beside them."""
    files = [base / name for name in TOKENIZER_FILES]
    if tokenizer.__class__.__module__.startswith("transformers_modules."):  # of code in the base's folder: trusted
        files += base.glob("*.py")
    for file in files:
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    settings = read_json(target / "tokenizer_config.json")
    if settings.get("chat_template") and chat_template_source(target) != tokenizer.chat_template:
        del settings["chat_template"]  # model.chat_template replaces it, and llama.cpp's converter would prefer it
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (target / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (target / TEMPLATE_FILE).write_text(tokenizer.chat_template, encoding="utf-8")


def write_generation_config(
    base: Path, tokenizer: Any, generation: Generation, stop: Collection[int], folder: Path
) -> None:
    """generation_config.json: the config's settings over the base's own, so that every engine samples alike and stops.

    `stop`: ids that end a turn, besides those that the base names.
    """

    model = read_json(base / "config.json")
    saved = {key: model[key] for key in SPECIAL_IDS if model.get(key) is not None}
    saved |= read_json(base / GENERATION_FILE) | generation.model_dump()
    if not generation.do_sample:  # beside it GenerationConfig calls invalid what only sampling uses
        saved = {key: value for key, value in saved.items() if key not in SAMPLING}
    saved.pop("max_length", None)  # max_new_tokens stands instead
    ends = stop_ids(base)
    if not set(stop) <= ends:
        saved["eos_token_id"] = sorted({*ends, *stop})
    if saved.get("pad_token_id") is None:
        saved["pad_token_id"] = min(stop) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    (folder / GENERATION_FILE).write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
