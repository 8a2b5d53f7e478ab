"""Rows as text in the forms that LLaMA-Factory reads without changing them.

Its `openai` formatting writes "detailed thinking off" into every system message, so rows go over as ShareGPT.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from train.chats.rows import Row
from train.chats.writers import convert_rows

PROMPT_SPEAKERS, ANSWER_SPEAKERS = ("human", "observation"), ("gpt", "function_call")


class RowsFile(NamedTuple):
    """Rows as the records of one text file."""

    records: list[dict[str, Any]]
    formatting: str
    """LLaMA-Factory's name of the format: sharegpt or alpaca."""
    skipped: int
    """Rows that the format cannot hold."""
    lost: Counter[str]
    """Part of a row that the format leaves out → number of rows that had it."""


def text_rows(rows: Sequence[Row], *, alpaca: bool) -> RowsFile:
    """The rows as ShareGPT; as Alpaca where that is asked for and loses nothing."""
    if alpaca:
        converted = convert_rows(rows, "alpaca")
        if not converted.refused:
            records = [{"system": "", "history": [], **record} for record in converted.records]
            return RowsFile(records, "alpaca", 0, Counter())
    converted = convert_rows(rows, "sharegpt", "drop")
    records = [{"system": "", "tools": "", **record} for record in converted.records if _alternates(record)]
    return RowsFile(records, "sharegpt", len(rows) - len(records), converted.lost)


def dataset_info(file_name: str, formatting: str) -> dict[str, Any]:
    """The file's entry in dataset_info.json."""
    names = ["system", "history"] if formatting == "alpaca" else ["system", "tools"]
    columns = {name: name for name in names}
    if formatting == "alpaca":
        columns |= {"prompt": "instruction", "query": "input", "response": "output"}
    else:
        columns |= {"messages": "conversations"}
    return {"file_name": file_name, "formatting": formatting, "columns": columns}


def _alternates(record: dict[str, Any]) -> bool:
    """Whether prompts and answers alternate; LLaMA-Factory skips other rows with no more than a warning."""
    speakers = [turn["from"] for turn in record["conversations"]]
    prompts, answers = speakers[::2], speakers[1::2]
    return (
        len(prompts) == len(answers) and set(prompts) <= set(PROMPT_SPEAKERS) and set(answers) <= set(ANSWER_SPEAKERS)
    )
