"""govor review --judge: which rows of a file look worst, before a person looks at them.

What can be told here is not asked: an empty answer, and personal data, which is sent nowhere.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from train.chats.provenance import Entries, row_hash
from train.chats.rows import Row, text_of, trained_answers
from train.core.errors import ConfigError
from train.remote.gates import is_private
from train.remote.journal import Reply
from train.remote.judge import BEST, ask, load_rubric, plain_name, row_request, score_in, verdict
from train.remote.services import find_model

UNKNOWN = 3.0
"""Where a row stands whose verdict cannot be read: in the middle."""
LOW = 2
"""The highest score that is held against a row."""


class Doubt(NamedTuple):
    """What is held against a row."""

    score: float | None
    """From 0 to 5, lower is worse; None where the verdict could not be read."""
    reasons: list[str]


def judge_rows(
    file: Path,
    rows: Sequence[Row],
    known: Entries,
    judge: str,
    *,
    rubric_file: Path | None,
    budget: str | None,
    max_tokens: int | None,
    dry_run: bool,
) -> dict[str, Doubt] | None:
    """Hash of each row → what is held against it; None for a dry run. Prints the counts.

    ConfigError where the judge has made rows of the file.
    """
    rubric, endpoint = load_rubric(rubric_file), find_model(judge, Path.cwd())
    makers = {plain_name(str(known[key].get("model"))) for row in rows if (key := row_hash(row)) in known}
    if plain_name(endpoint.model) in makers:
        raise ConfigError(f"{endpoint.model} has made rows of {file}: name another judge")
    doubts = {row_hash(row): seen_here(row) for row in rows}
    asked = [row for row in rows if doubts[row_hash(row)] is None]
    requests = [row_request(rubric, row, trained_answers(row.messages)[-1]) for row in asked]
    journal = file.with_name(file.name.split(".")[0] + ".judge.journal.jsonl")
    replied = ask(journal, endpoint, requests, budget, max_tokens, dry_run=dry_run) if requests else None
    if dry_run:
        return None
    asker, replies = replied or (None, [])
    found = {key: doubt for key, doubt in doubts.items() if doubt}
    found |= {row_hash(row): doubt_of(reply) for row, reply in zip(asked, replies, strict=True)}
    counts = {reason: sum(reason in doubt.reasons for doubt in found.values()) for reason in REASONS}
    said = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count) or "nothing held against them"
    print(f"{len(found)} different rows judged: {said}")
    for line in asker.lines() if asker else ():
        print(line)
    return found


REASONS = ("empty", "private", "does not follow", "out of character", "fragment", "not readable")


def seen_here(row: Row) -> Doubt | None:
    """What needs no judge; None where one is to be asked."""
    if not text_of(row.messages[trained_answers(row.messages)[-1]]).strip():
        return Doubt(0, ["empty"])
    if any(is_private(text_of(m)) for m in row.messages if m["role"] not in ("system", "developer")):
        return Doubt(0, ["private"])
    return None


def doubt_of(reply: Reply | None) -> Doubt:
    """What a verdict holds against a row."""
    read = verdict(reply) or {}
    follows, character = score_in(read, "follows"), score_in(read, "in_character")
    if follows is None or character is None:
        return Doubt(None, ["not readable"])
    reasons = (
        ("private", read.get("private") is True),
        ("does not follow", follows <= LOW),
        ("out of character", character <= LOW),
        ("fragment", read.get("fragment") is True),
    )
    held = [reason for reason, holds in reasons if holds]
    return Doubt(max(0.0, min(BEST, follows, character) - ("private" in held) - ("fragment" in held)), held)


def worst_first(rows: Sequence[Row], doubts: dict[str, Doubt], most: int) -> list[Row]:
    """The rows that most is held against, each once."""

    def place(row: Row) -> tuple[float, int]:
        score = doubts[row_hash(row)].score
        return (UNKNOWN if score is None else score, row.line)

    return sorted({row_hash(row): row for row in rows}.values(), key=place)[:most]
