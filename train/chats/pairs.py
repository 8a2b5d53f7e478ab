"""Pairs for preference tuning: a row with the preferred answer and one with the other, split by dialogue."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from train.chats.readers import is_preferences, read_rows, records, stream_preferences
from train.chats.row_formats import Preference
from train.chats.rows import Message, Row, text_of, without_weight
from train.chats.split import Split, require_disjoint, split
from train.core.config import Config
from train.core.errors import DataError


class Pair(NamedTuple):
    """The same prompt with either answer; of both rows the last message alone is learned."""

    preferred: Row
    other: Row


Question = tuple[tuple[str, str], ...]


class PairSplit(NamedTuple):
    """Pairs to train on and pairs held out."""

    train: list[Pair]
    held_out: list[Pair]
    split: Split
    """The same pairs by their rows with the preferred answer."""


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of preference rows; DataError names the first rows that are none."""
    if path.is_file() and not is_preferences(path):
        next(records(path), None)  # says what is wrong with a file that has no rows, or none that can be read
        raise DataError(
            f'{path}: its rows have one answer; a config with a section dpo learns from preference rows, {{"input": '
            '{"messages": […]}, "preferred_output": […], "non_preferred_output": […]}'
        )
    return [pair_of(row) for row, _, _ in stream_preferences(path)]


def pair_of(row: Preference) -> Pair:
    """The pair of a preference row."""
    prompt = [unlearned(message) for message in row.prompt]
    preferred, other = (
        Row(row.line, [*prompt, learned], row.tools, row.parallel_tool_calls)
        for answer in (row.preferred, row.other)
        for learned in [without_weight(answer[0])]
    )
    return Pair(preferred, other)


def read_pair_split(config: Config) -> PairSplit:
    """The pairs of a config, checked and split: no dialogue stands on both sides.

    Questions that the run in lora.start_from holds out are not trained. DataError where a row is no pair, or stands on
    both sides.
    """
    found = _split_pairs_of(config)
    start = config.lora.start_from if config.lora else None
    file = start / "held_out.jsonl" if start else None
    if file is None or not file.is_file():
        return found
    kept_apart = questions_of(read_rows(file) if file.stat().st_size else [])
    train = [pair for pair in found.train if question_of(pair.preferred.messages[:-1]) not in kept_apart]
    rows = [pair.preferred for pair in train]
    kept = {row.line for row in rows}
    left = [row for row in found.split.train if row.line not in kept]
    if found.train and not train:
        raise DataError(
            f"every question of {config.data.train_file} is held out by {start}: nothing is left to train on"
        )
    return PairSplit(train, found.held_out, found.split._replace(train=rows, left_out=[*found.split.left_out, *left]))


def _split_pairs_of(config: Config) -> PairSplit:
    pairs = read_pairs(config.data.train_file)
    if config.data.eval_file is None:
        return split_pairs(pairs, config.data.eval_fraction, config.training.seed)
    held_out = read_pairs(config.data.eval_file)
    dialogues = [*map(_dialogue, pairs)], [*map(_dialogue, held_out)]
    require_disjoint(*dialogues, config.data.train_file, config.data.eval_file)
    rows = [pair.preferred for pair in pairs], [pair.preferred for pair in held_out]
    return PairSplit(pairs, held_out, Split(*rows, [], 0, 0, wanted=len(held_out)))


def split_pairs(pairs: Sequence[Pair], eval_fraction: float, seed: int) -> PairSplit:
    """Hold out about `eval_fraction` of the pairs, whole dialogues: see `split.split`."""
    found = split([_dialogue(pair) for pair in pairs], eval_fraction, seed)
    of_line = {pair.preferred.line: pair for pair in pairs}
    train, held_out, left_out = (
        [of_line[row.line] for row in rows] for rows in (found.train, found.held_out, found.left_out)
    )
    rows = [[pair.preferred for pair in part] for part in (train, held_out, left_out)]
    of_rows = found._replace(train=rows[0], held_out=rows[1], left_out=rows[2])
    return PairSplit(train, held_out, of_rows)


def questions_of(rows: Iterable[Row]) -> set[Question]:
    """What is asked before each answer of the rows."""
    return {
        question_of(row.messages[:at])
        for row in rows
        for at, message in enumerate(row.messages)
        if message["role"] == "assistant"
    }


def question_of(messages: Sequence[Message]) -> Question:
    """Roles and texts before an answer, without a system message."""
    return tuple((m["role"], text_of(m).strip()) for m in messages if m["role"] not in ("system", "developer"))


def _dialogue(pair: Pair) -> Row:
    """A row that holds all that is said in a pair, so that pairs of one dialogue share turns.

    A dialogue is known by its first question, whatever was answered to it; several pairs of one question by it.
    """
    *prompt, preferred = pair.preferred.messages
    silence = Message(role="assistant", content="")
    asked = [message for message in prompt if message["role"] == "user"]
    opening = [message for question in {text_of(asked[0]): asked[0], text_of(asked[-1]): asked[-1]}.values()
               for message in (question, silence)]  # fmt: skip
    said = [message for message in prompt if message["role"] != "system"]
    return pair.preferred._replace(messages=[*opening, *said, preferred, asked[-1], pair.other.messages[-1]])


def unlearned(message: Message) -> Message:
    """A copy of the message that is not learned."""
    return {**message, "weight": 0} if message["role"] == "assistant" else message
