"""The base model as it lies on disk: where it is, which one it is, and what its files say."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.core.compat import trl_chat_templates
from train.core.config import Model
from train.core.errors import BaseError, ConfigError
from train.core.runs import Run
from train.models.fetch import WEIGHTS, fetch_from_hub


def stop_ids(base: Path) -> frozenset[int]:
    """Tokens at which a base stops, by its generation_config.json, or by config.json where that names none."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(base / name).get("eos_token_id")
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            if not all(isinstance(one, int) for one in ids):
                raise BaseError(f"{base / name}: damaged: eos_token_id is no id of a token")
            return frozenset(ids)
    return frozenset()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from one of the base's files; empty where there is no such file, BaseError where it is damaged."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise BaseError(f"{path}: not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}


POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names of the number of positions in config.json, by family."""
UNBOUNDED = 2**31
"""The context of a model without positions, such as a recurrent one."""


def language_config(base: Path) -> dict[str, Any]:
    """What config.json says of the language model, see `language_part`."""
    return language_part(read_json(base / "config.json"))


def language_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config.json, over them those of its `text_config`; but the whole says whether the head is tied."""
    tied = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
    inner = config.get("text_config")
    return {**config, **(inner if isinstance(inner, dict) else {}), **tied, "text_config": None}


def context_length(config: Mapping[str, Any]) -> int:
    """How many tokens the model reads, by the keys of its `language_config`; UNBOUNDED where they set no limit."""
    return next((config[name] for name in POSITIONS if isinstance(config.get(name), int)), UNBOUNDED)


def chosen_template(model: Model) -> str | None:
    """The text of `model.chat_template`; None where the base's own is used, ConfigError where there is none such."""
    name = model.chat_template
    if name is None:
        return None
    file = Path(name) if name.endswith(".jinja") else trl_chat_templates().get(name)
    if file is None:
        raise ConfigError(f"model.chat_template={name}: give a .jinja file or a name among TRL's: {template_names()}")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.chat_template={name}: the file cannot be read: {error}") from None


def template_names() -> str:
    """The names that `model.chat_template` takes, in a line."""
    return ", ".join(trl_chat_templates())


def template_entry(model: Model, base: Path) -> dict[str, Any]:
    """What the manifest says of whose chat template is used."""
    chosen = model.chat_template
    return {"name": chosen, "replaces_own": chosen is not None and chat_template_source(base) is not None}


def describe_template(entry: Mapping[str, Any]) -> str:
    """Whose chat template a run has, in words that name no folder; `entry`: `template` of its manifest."""
    name = entry.get("name")  # runs of earlier versions have the base's own
    if name is None:
        return "the base's own"
    source = f"the file {Path(name).name}" if name.endswith(".jinja") else f"{name}, as TRL ships it"
    return f"{source}, " + ("in place of the base's own" if entry["replaces_own"] else "since the base has none")


def chat_template_source(base: Path) -> str | None:
    """The base's default chat template as Jinja text, from its own file or tokenizer_config.json; None without one."""
    file = base / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BaseError(f"{file}: damaged, not UTF-8: {error.reason}") from None
    source = read_json(base / "tokenizer_config.json").get("chat_template")
    if isinstance(source, list):
        source = one_template({entry.get("name"): entry.get("template") for entry in source})
    return source if isinstance(source, str) else None


def one_template(named: Mapping[str, str]) -> str | None:
    """Named chat templates as one: `tool_use` where tools are given, as transformers chooses, else `default`."""
    default, with_tools = named.get("default"), named.get("tool_use")
    if default is None or with_tools is None:
        return default
    # The line breaks after the tags go, since transformers trims blocks; the templates' own spaces stay
    with_tools, default = with_tools.removesuffix("\n"), default.removesuffix("\n")
    return f"{{% if tools %}}\n{with_tools}{{%+ else %}}\n{default}{{%+ endif %}}"


def find_base(model: Model) -> Path:
    """Local folder of the base: the given one, or the Hub's files in the local cache, downloaded if need be.

    From here on only that folder is read, so that nothing later asks the network again.
    """
    if folder := given_folder(model):
        return folder
    return fetch_from_hub(model.name_or_path, model.revision, code=model.trust_remote_code)


def require_trainable(base: Path, model: Model) -> str | None:
    """BaseError or ConfigError where an adapter over the weights in that folder would come to nothing.

    Returns a line on what cannot be done later, where there is such a thing.
    """
    name, original = model.name_or_path, "take its weights in 16 bits, with model.load_in_4bit=true if memory is short"
    if not any(base.glob("*.safetensors")):
        there = ", ".join(sorted({path.name for kind in ("*.bin", "*.pth", "*.gguf") for path in base.glob(kind)})[:3])
        raise BaseError(
            f"{name} has no weights as safetensors{f' ({there})' if there else ''}, which training and merging read: "
            "take a revision that has them (model.revision), or write them with transformers' save_pretrained"
        )
    settings = read_json(base / "config.json").get("quantization_config")
    if not isinstance(settings, dict):
        return None
    method = settings.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in settings else "an unknown method")
    if method != "bitsandbytes" or not settings.get("load_in_4bit"):
        kind = f"{method}, 8 bits" if method == "bitsandbytes" else method
        raise BaseError(f"{name} is quantised already ({kind}), and govor trains over no such weights: {original}")
    if not model.load_in_4bit:
        raise ConfigError(f"{name} holds 4-bit weights of bitsandbytes: set model.load_in_4bit=true, or {original}")
    return f"{name} is quantised already: its adapter can be served, but not merged; to merge, {original}"


def base_revision(base: Path) -> str | None:
    """Commit of a base that came from the Hub: the name of its folder in the cache."""
    return base.name if base.parent.name == "snapshots" else None


def run_base(run: Run) -> Path:
    """The base that the run was trained on; BaseError where the one found now is another."""
    model = run.config().model
    trained_on = run.manifest()["base"]
    base = Path(trained_on["path"])
    if not (base / "config.json").is_file():  # the run has moved to another machine, or the cache was emptied
        base = find_base(model.model_copy(update={"revision": trained_on["revision"] or model.revision}))
    if weights_fingerprint(base) != trained_on["weights"]:
        raise BaseError(f"{model.name_or_path} has changed since {run.path} was trained on it: its weights differ")
    return base


def weights_fingerprint(base: Path) -> dict[str, str]:
    """sha256 over size, first and last MiB of every weights file: tells one base from another."""
    found = {}
    for file in sorted(base.glob(WEIGHTS)):
        with file.open("rb") as handle:
            length = handle.seek(0, os.SEEK_END)
            digest = hashlib.sha256(str(length).encode())
            for start in (0, max(0, length - 2**20)):
                handle.seek(start)
                digest.update(handle.read(2**20))
        found[file.name] = digest.hexdigest()
    return found


def tuned_weights(run: Run) -> dict[str, str]:
    """The `weights_fingerprint` of what the run has trained: it tells its model from any other."""
    return weights_fingerprint(run.adapter if run.adapter.exists() else run.merged)


def given_folder(model: Model) -> Path | None:
    """The base's own folder; None where it is named by a Hub id, BaseError where it is neither."""
    folder = Path(model.name_or_path)
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise BaseError(
            f"{folder} holds an adapter and no base ({base} is its base): to go on from a run's adapter set "
            "lora.start_from=RUN and name its base here, or merge the run and name RUN/merged"
        )
    if (folder / "manifest.json").is_file() and (folder / "config.yaml").is_file():
        raise BaseError(
            f"{folder} is a run and no base: to go on from its adapter set lora.start_from={folder} and name its base "
            f"here, or merge it (govor merge {folder}) and name {folder / 'merged'}"
        )
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise BaseError(f"{folder} is not a model folder: it has no config.json")
    if model.name_or_path.count("/") != 1 or folder.parent.is_dir():
        raise BaseError(f"{folder}: no such folder, and no Hub id (owner/name) either")
    return None


def local_folder(model: Model) -> Path | None:
    """The folder with the base's config.json: the given one, or the Hub's files in the local cache."""
    if folder := given_folder(model):
        return folder
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = Path(HF_HUB_CACHE) / f"models--{model.name_or_path.replace('/', '--')}"
    revision = model.revision or "main"
    reference = cached / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    snapshot = cached / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None
