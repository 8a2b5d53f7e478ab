"""What the page of one run shows besides its curve: whatever the run folder holds."""

import json
from pathlib import Path
from typing import Any

import yaml

from train.chats.rows import text_of
from train.core.config import Config, Data, Model, config_class, dump_config
from train.core.errors import GovorError
from train.core.runs import Run, whole_checkpoints
from train.encoding.held_out import held_out_rows
from train.evaluation.sampling import held_out_prompts
from train.models.base import tuned_weights, weights_fingerprint

MOST_PROMPTS = 12
"""Held-out prompts whose answers are shown side by side."""
FROM_MANIFEST = ("data", "template", "parity", "merge", "evaluation", "warnings", "parameters", "processes", "versions")


def describe(run: Run) -> dict[str, Any]:
    """Config, data account, samples, verdict, drift and parity, each None where the folder has none."""
    manifest, config = run.manifest(), run.config()
    return {
        "options": changed_options(config),
        "config": run.config_file.read_text(encoding="utf-8"),
        **{name: manifest.get(name) for name in FROM_MANIFEST},
        "samples_file": _text(run.samples_file),
        "evaluated": _json(run.evaluation / "evaluation.json"),
        "answers": answers_by_state(run),
    }


def changed_options(config: Config) -> list[dict[str, Any]]:
    """[{"option", "value", "default"}, …] of the options that differ from their defaults."""
    bare = config_class()(name="x", model=Model(name_or_path="-"), data=Data(train_file=Path("-")))
    given, default = (_flat(yaml.safe_load(dump_config(one))) for one in (config, bare))
    return [
        {"option": key, "value": value, "default": None if default.get(key) == "-" else default.get(key)}
        for key, value in given.items()
        if key not in ("name", "prompts") and value != default.get(key)
    ]


def _flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def answers_by_state(run: Run) -> dict[str, Any] | None:
    """The answers that `govor eval` has sampled, the same prompts for each saved state; None before it.

    {"states": ["base", "checkpoint-5", …, "tuned"], "prompts": [{"messages": […], "real": text, "answers": [text or
    None for each state]}, …]}
    """
    file = run.evaluation / "answers.jsonl"
    if not file.is_file():
        return None
    states = {_key(run.manifest()["base"]["weights"]): "base"}
    states |= {_key(weights_fingerprint(folder)): folder.name for folder in whole_checkpoints(run.checkpoints)}
    states[_key(tuned_weights(run))] = "tuned"
    answers: dict[tuple[str, str], str] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
            if record["model"] in states and record["sample"] == 0:
                answers[record["prompt"], states[record["model"]]] = str(record["answer"])
        except (ValueError, KeyError, TypeError):
            continue  # what a kill has left of a last line
    said = {state for _, state in answers}
    names = [state for state in states.values() if state in said]
    try:
        prompts = held_out_prompts(held_out_rows(run))
    except GovorError:
        return None
    shown = [prompt for prompt in prompts if any((prompt.key, name) in answers for name in names)][:MOST_PROMPTS]
    return {
        "states": names,
        "prompts": [
            {
                "messages": [{"role": m["role"], "content": text_of(m)} for m in prompt.messages],
                "real": prompt.real.text,
                "answers": [answers.get((prompt.key, name)) for name in names],
            }
            for prompt in shown
        ],
    }


def _key(weights: Any) -> str:
    """How answers.jsonl names the model of these weights."""
    return json.dumps(weights, sort_keys=True, ensure_ascii=False)


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
