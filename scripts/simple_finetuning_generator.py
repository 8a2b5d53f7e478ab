"""The guide's preparing of medical rows: Alpaca rows → a folder that LLaMA-Factory 0.9.5 trains from as it is.

    python scripts/simple_finetuning_generator.py
    llamafactory-cli train finetuning_output/llamafactory_config.yaml

    finetuning_output/
      medical_finetune_train.jsonl  medical_finetune_val.jsonl  medical_finetune_all.jsonl
      dataset_stats.json            counts, sources, mean lengths
      llamafactory_config.json      the settings of configs/medical.yaml under LLaMA-Factory's names
      llamafactory_config.yaml      the same: version 0.9.5 means to read JSON, too, and breaks off
      dataset_info.json             what LLaMA-Factory wants to know of the files

The split is that of `govor train configs/medical.yaml`. More rows come from `govor generate data/medical.jsonl --plan
configs/generate/medical.yaml …`; reviewed, as Alpaca and joined to the others they are counted under the model that
made them. This script asks no service anything.
"""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import click

from train.chats.provenance import read_provenance, require_reviewed, row_hash
from train.chats.readers import stream_records
from train.chats.split import split_rows
from train.chats.writers import convert_rows
from train.core.config import Config, load_config
from train.core.errors import ConfigError, DataError, one_line_errors
from train.core.files import require_new, write_whole
from train.exports.llamafactory.rows import dataset_info
from train.exports.llamafactory.settings import lora_settings, model_settings, training_settings
from train.exports.llamafactory.templates import TEMPLATES

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "configs/medical.yaml"
NAME = "medical_finetune"
OPTIONAL: dict[str, Any] = {"input": "", "system": "", "history": []}
"""Keys of Alpaca's that a row may lack, or have as null → what stands there then."""
PATH = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--input", "file", type=PATH, default=REPOSITORY / "data/medical.jsonl", help="Rows, Alpaca as a rule.")
@click.option("--base", help="Base to tune: Hub id or folder.  [default: that of configs/medical.yaml]")
@click.option(
    "--template",
    type=click.Choice(sorted(template.name for template in TEMPLATES)),
    default="qwen3_nothink",
    show_default=True,
    help="LLaMA-Factory's chat template of that base.",
)
@click.option("-o", "--output", type=PATH, default=Path("finetuning_output"), show_default=True)
@click.option("--force", is_flag=True, help="Replace the files.")
def main(file: Path, base: str | None, template: str, output: Path, force: bool) -> None:
    """Write rows, statistics and settings for LLaMA-Factory."""
    with one_line_errors():
        for line in generate(file, base, template, output, force=force):
            print(line)


def generate(file: Path, base: str | None, template: str, folder: Path, *, force: bool) -> list[str]:
    """Write the folder's files; lines for the user. DataError where Alpaca's format cannot say a row."""
    config = load_config(CONFIG, [f"data.train_file={file}", *([f"model.name_or_path={base}"] if base else [])])
    parts = read_parts(file, config)
    settings = llamafactory_settings(config, folder, template, evaluate=bool(parts["val"]))
    info = {f"{NAME}_{part}": dataset_info(f"{NAME}_{part}.jsonl", "alpaca") for part in parts}
    texts = {f"{NAME}_{part}.jsonl": "".join(map(_line, records)) for part, records in parts.items()}
    texts |= {
        name: json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        for name, content in (
            ("dataset_stats.json", stats(parts)),
            ("llamafactory_config.json", settings),
            ("llamafactory_config.yaml", settings),  # JSON is YAML
            ("dataset_info.json", info),
        )
    }
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"-o {folder}: a file, expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in texts:
        require_new(folder / name, force)
    for name, text in texts.items():
        write_whole(folder / name, [text], replace=force)
    counts = ", ".join(f"{part} {len(records)}" for part, records in parts.items())
    return [f"rows: {counts}", *(f"wrote {folder / name}" for name in texts),
            f"next: llamafactory-cli train {folder / 'llamafactory_config.yaml'}"]  # fmt: skip


def read_parts(file: Path, config: Config) -> dict[str, list[dict[str, Any]]]:
    """train, val and all → records of Alpaca; those of an Alpaca file as they stand there, with id and source."""
    found = list(stream_records(file))
    converted = convert_rows([record.row for record in found], "alpaca")
    if converted.refused:
        line, why = converted.refused[0]
        raise DataError(f"{file}:{line}: Alpaca has no place for: {why} ({len(converted.refused)} rows in all)")
    lines = file.read_text(encoding="utf-8-sig").split("\n") if file.suffix == ".jsonl" else []
    require_reviewed([one.row for one in found], file)
    origins = read_provenance(file.absolute().parent)
    records = {}
    for one, record in zip(found, converted.records, strict=True):
        as_it_was = lines and one.format_name == "alpaca"
        record = json.loads(lines[one.row.line - 1]) if as_it_was else {**record, **one.more}
        if origin := origins.get(row_hash(one.row)):
            record = {"source": f"{origin['source']}, {origin['model']}", **record}
        records[one.row.line] = {**record, **{key: record.get(key) or none for key, none in OPTIONAL.items()}}
    train, held_out = split_rows([one.row for one in found], config.data.eval_fraction, config.training.seed)
    return {
        "train": [records[row.line] for row in train],
        "val": [records[row.line] for row in held_out],
        "all": list(records.values()),
    }


def stats(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Counts, sources, mean lengths in characters."""
    rows = parts["all"]
    return {
        "total_samples": len(rows),
        "train_samples": len(parts["train"]),
        "val_samples": len(parts["val"]),
        "sources": dict(Counter(str(row.get("source", "unknown")) for row in rows)),
        "avg_instruction_length": mean(len(row["instruction"]) for row in rows),
        "avg_input_length": mean(len(row["input"]) for row in rows),
        "avg_output_length": mean(len(row["output"]) for row in rows),
        "created_at": datetime.now().isoformat(timespec="seconds"),
    }


def llamafactory_settings(config: Config, folder: Path, template: str, *, evaluate: bool) -> dict[str, Any]:
    """What `llamafactory-cli train` reads; folders are absolute, so that it runs from anywhere.

    `evaluate`: whether rows are held out; it breaks off over a file without any.
    """
    name = config.model.name_or_path
    base = str(Path(name).resolve()) if Path(name).is_dir() else name
    return {
        **model_settings(config, base, config.model.revision),
        "stage": "sft",
        "do_train": True,
        **lora_settings(config, None, {}),
        "dataset_dir": str(folder.resolve()),
        "dataset": f"{NAME}_train",
        **({"eval_dataset": f"{NAME}_val"} if evaluate else {}),
        "template": template,
        **training_settings(config, {}, evaluate=evaluate),
        "output_dir": str(folder.resolve() / "saves"),
    }


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
