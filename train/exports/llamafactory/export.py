"""A folder that LLaMA-Factory 0.9.5 takes as it is: rows, settings, and the adapter of a finished run.

    dataset_info.json            what the row files hold
    train.jsonl held_out.jsonl   the same split as the run's; ShareGPT, or Alpaca where the source was
    tokenized/                   the same rows as ids and labels, which train.yaml trains on
    train.yaml merge.yaml inference.yaml api.yaml
    adapter/                     of a finished run
    README.md                    what to run, and what has no counterpart

The rows alone do not make the same training: LLaMA-Factory learns the line break behind an answer too, cannot leave an
answer out of the loss, and has no template for many bases. Hence tokenized/.
"""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from train.chats.readers import read_records
from train.chats.rows import shared_system_message
from train.chats.split import read_split
from train.core.config import Config
from train.core.errors import BaseError, ConfigError, RunError
from train.core.files import NOTE, complete_folder, require_replaceable, sha256
from train.core.runs import Run
from train.encoding.chosen_template import load_base_tokenizer
from train.encoding.rows import Encoding, encoder
from train.exports.llamafactory.readme import readme
from train.exports.llamafactory.rows import RowsFile, dataset_info, text_rows
from train.exports.llamafactory.settings import (
    lora_settings,
    model_settings,
    named_targets,
    sampling_settings,
    template_settings,
    training_settings,
)
from train.exports.llamafactory.templates import TemplateChoice, choose_template
from train.models.base import find_base, read_json, run_base
from train.models.load import load_run_tokenizer, quiet_libraries
from train.models.safetensors_files import read_headers, weight_files
from train.models.save import GENERATION_FILE
from train.plan.shapes import read_shapes

MARKS = ("dataset_info.json", "train.yaml")
"""Files by which an earlier export is recognised."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
SAVES = "saves"
"""Subfolder that LLaMA-Factory's own training writes to."""
Settings = dict[str, dict[str, Any]]
"""Name of a YAML file, without .yaml → its settings."""


class ExportSource(NamedTuple):
    """A run, or a config that has not run yet, with its rows as training encodes them."""

    config: Config
    run: Run | None
    base: Path
    tokenizer: Any
    train: Encoding
    held_out: Encoding
    alpaca: bool
    """Whether the training file is in Alpaca's format."""

    @property
    def adapter(self) -> Path | None:
        """The adapter of a finished run; None where there is none."""
        return self.run.adapter if self.run and self.run.adapter.exists() else None

    @property
    def merged(self) -> Path | None:
        """The whole model of a finished run; None unless the run tuned it whole."""
        return self.run.merged if self.run and self.config.lora is None else None


def export_llamafactory(run_or_config: Run | Config, folder: Path | None = None, *, force: bool = False) -> list[str]:
    """Write the folder: RUN/exports/llamafactory, or NAME-llamafactory for a config that has not run yet.

    Returns lines for the user.
    """
    if isinstance(run_or_config, Run):
        folder = folder or run_or_config.path / "exports/llamafactory"
    else:
        folder = folder or Path(f"{run_or_config.name}-llamafactory")
    require_replaceable(folder, MARKS, force=force)
    quiet_libraries()
    source = _run_source(run_or_config) if isinstance(run_or_config, Run) else _config_source(run_or_config)
    model_type = read_json(source.base / "config.json").get("model_type", "")
    image_processor = any((source.base / name).is_file() for name in PROCESSOR_FILES)
    choice = choose_template(source.tokenizer, source.train, model_type, image_processor=image_processor)
    left_out: dict[str, str] = {}
    settings = _settings(source, choice, left_out)
    rows = text_rows(source.train.rows, alpaca=source.alpaca)
    held_out = text_rows(source.held_out.rows, alpaca=rows.formatting == "alpaca")
    text, notes = readme(source.config, choice, left_out, rows, held_out, source.train, tuned=source.run is not None)
    with complete_folder(folder, replace=force) as aside:
        _write_rows(aside, source.config.name, rows, held_out)
        _write_tokenized(aside / "tokenized", source.train, source.held_out)
        for name, values in settings.items():
            _write_yaml(aside / f"{name}.yaml", values)
        if source.adapter:
            shutil.copytree(source.adapter, aside / "adapter", ignore=shutil.ignore_patterns(NOTE))
        (aside / "README.md").write_text(text, encoding="utf-8")
    files = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name != NOTE)
    notes = [f"note: {note}" for note in notes]
    return [f"wrote {folder}: {', '.join(files)}", *notes, f"next: cd {folder} && llamafactory-cli train train.yaml"]


def _run_source(run: Run) -> ExportSource:
    """The source of a finished run; an error where its rows or its base have changed since."""
    config, manifest = run.config(), run.manifest()
    for name, path in (("train", config.data.train_file), ("held_out", config.data.eval_file)):
        if path is not None and not path.is_file():
            raise RunError(f"{path} is not there: export from the folder in which {run.path} was trained")
        if path is not None and manifest["data"][name]["sha256"] != sha256(path):
            raise RunError(f"{path} has changed since {run.path} was trained: export the rows that it was trained on")
    return _source(config, run, run_base(run), run.template_date() or datetime.now())


def _config_source(config: Config) -> ExportSource:
    return _source(config, None, find_base(config.model), datetime.now())


def _source(config: Config, run: Run | None, base: Path, today: datetime) -> ExportSource:
    # a run's has the template frozen in it
    tokenizer = load_run_tokenizer(run) if run else load_base_tokenizer(config.model, base)
    if config.dpo:
        raise ConfigError("dpo: LLaMA-Factory is handed rows of one answer; --to gguf and ollama take such a run")
    split = read_split(config)
    rows, held_out = split.train, split.held_out
    encode = encoder(config, tokenizer, base, today)
    alpaca = read_records(config.data.train_file)[0] == "alpaca"
    return ExportSource(config, run, base, tokenizer, encode(rows), encode(held_out), alpaca)


def _settings(source: ExportSource, choice: TemplateChoice | None, left_out: dict[str, str]) -> Settings:
    """The YAML files by name, merge only where there is an adapter; what has no counterpart is added to `left_out`."""
    config, name = source.config, source.config.name
    evaluate = bool(source.held_out.rows)
    model = model_settings(config, _name_or_path(source), _revision(source))
    template = template_settings(choice)
    tuned = {"finetuning_type": "lora" if config.lora else "full"}
    if config.lora:
        tuned["adapter_name_or_path"] = "adapter" if source.run else SAVES
    data: dict[str, Any] = {"dataset_dir": ".", "dataset": f"{name}_train"}
    if evaluate:
        data["eval_dataset"] = f"{name}_held_out"
    data["tokenized_path"] = "tokenized"
    if source.train.report.last_turn_only:
        data["mask_history"] = True
    training = training_settings(config, left_out, evaluate=evaluate)
    if training.get("train_on_prompt"):
        data.pop("mask_history", None)
    train = {
        **model,
        "stage": "sft",
        "do_train": True,
        **lora_settings(config, _targets(source), left_out),
        **data,
        **template,
        **training,
        "output_dir": SAVES,
    }
    served = source.merged.resolve() if source.merged else SAVES if config.lora is None else model["model_name_or_path"]
    answering = {**model, "model_name_or_path": str(served), **tuned, **template, "infer_backend": "huggingface"}
    answering |= sampling_settings(config, _generation(source))
    system = shared_system_message(source.train.rows)
    settings = {"train": train, "inference": answering | ({"default_system": system} if system else {})}
    settings["api"] = answering
    if config.lora:
        unquantized_base = {
            key: value for key, value in model.items() if not key.startswith(("quant", "double", "flash"))
        }
        output = {"export_dir": "merged", "export_size": 5, "export_device": "cpu", "export_legacy_format": False}
        settings["merge"] = {**unquantized_base, **tuned, **template, **output}
    return settings


def _name_or_path(source: ExportSource) -> str:
    """Where LLaMA-Factory finds the base: its Hub id, or its folder's absolute path."""
    name = source.config.model.name_or_path
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _revision(source: ExportSource) -> str | None:
    recorded = source.run.manifest()["base"]["revision"] if source.run else None
    return recorded or source.config.model.revision


def _targets(source: ExportSource) -> list[str] | None:
    """The layers that get an adapter, where the config has a regular expression, or all-linear among names."""
    if source.config.lora is None:
        return None
    if not isinstance(source.config.lora.target_modules, str):
        if "all-linear" not in source.config.lora.target_modules:
            return None
        return sorted(name.removesuffix(".weight") for name in read_shapes(source.base).targets(source.config.lora))
    pattern = source.config.lora.target_modules
    if pattern == "all-linear":
        return None
    names = named_targets(pattern, read_headers(weight_files(source.base)))
    if not names:
        raise BaseError(f"lora.target_modules={pattern} fits no layer of {source.config.model.name_or_path}")
    return names


def _generation(source: ExportSource) -> dict[str, Any]:
    """The generation_config.json of the adapter or model that answers; empty where it has none."""
    return read_json((source.adapter or source.merged or source.base) / GENERATION_FILE)


def _write_rows(folder: Path, name: str, rows: RowsFile, held_out: RowsFile) -> None:
    info = {}
    for kind, part in (("train", rows), ("held_out", held_out)):
        if kind == "train" or part.records or part.skipped:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part.records)
            (folder / f"{kind}.jsonl").write_text(text, encoding="utf-8")
            info[f"{name}_{kind}"] = dataset_info(f"{kind}.jsonl", part.formatting)
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _write_tokenized(folder: Path, train: Encoding, held_out: Encoding) -> None:
    """Rows as LLaMA-Factory keeps them once it has tokenized them itself."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()

    def dataset(encoding: Encoding) -> Any:
        ids = [row.input_ids for row in encoding.encoded]
        labels = [row.labels for row in encoding.encoded]
        return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(i) for i in ids], "labels": labels})

    parts = {"train": train, "validation": held_out}
    DatasetDict({name: dataset(part) for name, part in parts.items() if part.rows}).save_to_disk(folder)


def _write_yaml(path: Path, values: dict[str, Any]) -> None:
    command = {"train": "train", "merge": "export", "inference": "chat", "api": "api"}[path.stem]
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=120)
    path.write_text(f"# in this folder: llamafactory-cli {command} {path.name}\n{text}", encoding="utf-8")
