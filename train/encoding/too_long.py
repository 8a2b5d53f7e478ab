"""Rows that cannot be trained whole: longer than max_length, or rewritten by their chat template."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from train.chats.rows import Message, Row, is_trained, trained_answers
from train.encoding.loss_mask import Encoded

TooLong = Literal["error", "drop", "truncate", "split"]


RewrittenHistory = Literal["last_turn", "split"]


EncodedRow = tuple[Row, Encoded]


@dataclass
class EncodingReport:
    """What became of rows that could not be trained whole. Pairs are (line, tokens)."""

    max_length: int
    dropped: list[tuple[int, int]] = field(default_factory=list)
    """Left out; with `split` a single answer and its question."""
    truncated: list[tuple[int, int]] = field(default_factory=list)
    split: list[tuple[int, int]] = field(default_factory=list)
    stripped: list[int] = field(default_factory=list)
    """Lines of rows out of which special tokens of the base were taken."""
    last_turn_only: int = 0
    """Rows that train one of several answers, because the template rewrites the earlier ones."""
    history_split: int = 0
    """Rows made into one for each answer for that reason."""
    dated: str | None = None
    """The date that the template has written into the rows, if it writes today's."""

    def lines(self) -> Iterator[str]:
        """The report as lines for people; none where every row is trained whole."""
        beyond = f"longer than training.max_length={self.max_length}"
        for pairs, what in (
            (self.dropped, f"left out, {beyond}"),
            (self.truncated, f"cut after the last answer that fits, {beyond}"),
            (self.split, f"made into several, {beyond}"),
        ):
            if pairs:
                yield f"{len(pairs)} {what}: {name_lines(pairs)}"
        if self.stripped:
            lines = ", ".join(map(str, self.stripped[:5])) + (", …" if len(self.stripped) > 5 else "")
            yield f"{len(self.stripped)} held special tokens of the base as text, which were taken out: lines {lines}"
        if self.last_turn_only:
            yield f"{self.last_turn_only} train their last turn alone: the chat template rewrites earlier turns"
        if self.history_split:
            yield f"{self.history_split} made into one for each answer: the chat template rewrites earlier turns"
        if self.dated:
            yield f"the chat template writes today's date into them, {self.dated}; a server writes that of its own day"


def parts_by_history(
    part: EncodedRow, encode: Callable[[Row], Encoded], rewritten_history: RewrittenHistory, report: EncodingReport
) -> list[EncodedRow]:
    """The row; or a row for each of its answers, where the template rewrites earlier ones and that is asked for."""
    row, encoded = part
    if rewritten_history == "last_turn" or not encoded.last_turn_only:
        return [part]
    report.history_split += 1
    answers = trained_answers(row.messages)
    parts = [row._replace(messages=[*_context(row.messages[:at]), row.messages[at]]) for at in answers]
    return [(part, encode(part)) for part in parts]


def shorten(
    part: EncodedRow, encode: Callable[[Row], Encoded], too_long: TooLong, report: EncodingReport
) -> list[EncodedRow]:
    """What `too_long` leaves of a row that is longer than max_length."""
    row, length = part[0], len(part[1].input_ids)
    if too_long == "split":
        parts, beyond = _split(part, encode, report.max_length)
        report.dropped += [(row.line, tokens) for tokens in beyond]
        if parts:
            report.split.append((row.line, length))
        return parts
    shorter = _truncate(row, encode, report.max_length) if too_long == "truncate" else None
    (report.truncated if shorter else report.dropped).append((row.line, length))
    return [shorter] if shorter else []


def _truncate(row: Row, encode: Callable[[Row], Encoded], max_length: int) -> EncodedRow | None:
    """The longest beginning of the row that ends with a trained answer and fits."""
    answers = trained_answers(row.messages)
    best, low, high = None, 0, len(answers)
    while low < high:
        middle = (low + high) // 2
        shorter = row._replace(messages=row.messages[: answers[middle] + 1])
        encoded = encode(shorter)
        if len(encoded.input_ids) <= max_length:
            best, low = (shorter, encoded), middle + 1
        else:
            high = middle
    return best


def _split(part: EncodedRow, encode: Callable[[Row], Encoded], max_length: int) -> tuple[list[EncodedRow], list[int]]:
    """(rows within max_length that together train what the row trains, tokens of each exchange that fits in none).

    As many exchanges as fit make a row; the room that is left goes to those before them, as context.
    """
    row = part[0]
    if part[1].last_turn_only:
        last = trained_answers(row.messages)[-1]
        row = row._replace(messages=[*_context(row.messages[:last]), *row.messages[last:]])
    system, exchanges = _exchanges(row.messages)
    parts: list[EncodedRow] = []
    beyond: list[int] = []

    def cut(first: int, begin: int, end: int) -> EncodedRow:
        context = _context([message for exchange in exchanges[first:begin] for message in exchange])
        trained = [message for exchange in exchanges[begin:end] for message in exchange]
        piece = row._replace(messages=[*system, *context, *trained])
        return piece, encode(piece)

    def fits(part: EncodedRow) -> bool:
        return len(part[1].input_ids) <= max_length

    def close(open_at: tuple[int, int, EncodedRow]) -> None:
        begin, end, best = open_at
        for first in range(begin - 1, -1, -1):
            wider = cut(first, begin, end)
            if not fits(wider):
                break
            best = wider
        parts.append(best)

    open_at: tuple[int, int, EncodedRow] | None = None
    for at in (at for at, exchange in enumerate(exchanges) if any(map(is_trained, exchange))):
        if open_at and fits(grown := cut(open_at[0], open_at[0], at + 1)):
            open_at = (open_at[0], at + 1, grown)
            continue
        if open_at:
            close(open_at)
        alone = cut(at, at, at + 1)
        open_at = (at, at + 1, alone) if fits(alone) else None
        if not open_at:
            beyond.append(len(alone[1].input_ids))
    if open_at:
        close(open_at)
    return parts, beyond


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """(system messages at the beginning, the rest cut before every question)."""
    start = next((at for at, message in enumerate(messages) if message["role"] not in ("system", "developer")), 0)
    exchanges: list[list[Message]] = []
    for at in range(start, len(messages)):
        if at == start or (messages[at]["role"] == "user" and messages[at - 1]["role"] != "user"):
            exchanges.append([])
        exchanges[-1].append(messages[at])
    return list(messages[:start]), exchanges


def _context(messages: Sequence[Message]) -> list[Message]:
    """The messages with no answer trained."""
    return [{**message, "weight": 0} if message["role"] == "assistant" else message for message in messages]


def name_lines(pairs: Sequence[tuple[int, int]]) -> str:
    named = ", ".join(f"line {line} ({length})" for line, length in pairs[:5])
    return named + (", …" if len(pairs) > 5 else "")
