"""What govor compare has left: compare/NAME/answers.jsonl, a prompt a line with every model's answer."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from train.chats.rows import Message
from train.core.errors import DataError, GovorError

FOLDER = Path("compare")


class Compared(NamedTuple):
    """A comparison as its answers.jsonl holds it."""

    folder: Path
    prompts: list[list[Message]]
    answers: dict[str, list[str | None]]
    """Model → its answer to each prompt."""


def folder_of(name: str) -> Path:
    """The comparison's folder; GovorError where the name could be no folder's."""
    if not re.fullmatch(r"[^\W_][\w.-]*", name):
        raise GovorError(f"{name!r}: a comparison's name has letters, digits, points and dashes")
    return FOLDER / name


def read_answers(folder: Path) -> Compared:
    """The comparison in that folder; GovorError where there is none."""
    path, name = folder / "answers.jsonl", folder.name
    if not path.is_file():
        there = ", ".join(sorted(found.parent.name for found in FOLDER.glob("*/answers.jsonl"))) or "none here yet"
        raise GovorError(f"no comparison {name} (compare: {there}): govor compare {name} MODEL MODEL --prompts FILE")
    prompts: list[list[Message]] = []
    answers: dict[str, list[str | None]] = {}
    try:
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            entry = json.loads(line)
            prompts.append(entry["prompt"])
            for label, said in entry["answers"].items():
                answers.setdefault(label, []).append(said and said["text"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}:{len(prompts) + 1}: no line of a comparison: ask again with govor compare") from None
    return Compared(folder, prompts, answers)
