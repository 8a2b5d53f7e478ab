"""Rows as text in the forms that LLaMA-Factory reads without changing them.

Its `openai` formatting writes "detailed thinking off" into every system message, so rows go over as ShareGPT.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from train.chats.rows import Row
from train.chats.writers import convert

ASKS, ANSWERS = ("human", "observation"), ("gpt", "function_call")


class RowsFile(NamedTuple):
    """Rows as text."""

    records: list[dict[str, Any]]
    formatting: str
    """sharegpt or alpaca."""
    missing: int
    """Rows that the form cannot say."""
    lost: Counter[str]
    """What it leaves out → rows that had it."""


def text_rows(rows: Sequence[Row], *, alpaca: bool) -> RowsFile:
    """The rows as ShareGPT; as Alpaca where that is asked for and loses nothing."""
    if alpaca:
        converted = convert(rows, "alpaca")
        if not converted.refused:
            whole = [{"system": "", "history": [], **record} for record in converted.records]
            return RowsFile(whole, "alpaca", 0, Counter())
    converted = convert(rows, "sharegpt", "drop")
    kept = [{"system": "", "tools": "", **record} for record in converted.records if _in_turn(record)]
    return RowsFile(kept, "sharegpt", len(rows) - len(kept), converted.lost)


def dataset_info(file_name: str, formatting: str) -> dict[str, Any]:
    """The file's entry in dataset_info.json."""
    names = ["system", "history"] if formatting == "alpaca" else ["system", "tools"]
    columns = {name: name for name in names}
    if formatting == "alpaca":
        columns |= {"prompt": "instruction", "query": "input", "response": "output"}
    else:
        columns |= {"messages": "conversations"}
    return {"file_name": file_name, "formatting": formatting, "columns": columns}


def _in_turn(record: dict[str, Any]) -> bool:
    """Whether questions and answers alternate; LLaMA-Factory skips other rows with no more than a warning."""
    speakers = [turn["from"] for turn in record["conversations"]]
    asks, answers = speakers[::2], speakers[1::2]
    return len(asks) == len(answers) and set(asks) <= set(ASKS) and set(answers) <= set(ANSWERS)
