"""Rows → what the trainer gets, with an account of every row that could not be trained whole.

Rows longer than max_length (`data.too_long`):
    error     refused, with their lines and lengths
    drop      left out
    truncate  cut behind the last answer that ends within max_length; left out where none does
    split     made into several rows, each under the row's system message: every answer is trained once, and what came
              before it stays as context as far as it fits; an answer whose own question does not fit is left out
Rows whose earlier answers the chat template rewrites once others follow (`data.rewritten_history`):
    last_turn  train their last answer
    split      are made into a row for each answer, with its prompt as served
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.chats.rows import Message, Row, is_trained
from train.core.config import Config
from train.core.errors import BaseError, DataError
from train.encoding.cache import Encode, fingerprint, remembered
from train.encoding.loss_mask import Encoded, encode_row

TooLong = Literal["error", "drop", "truncate", "split"]
RewrittenHistory = Literal["last_turn", "split"]
Part = tuple[Row, Encoded]


@dataclass
class Account:
    """What became of rows that could not be trained whole. Pairs are (line, tokens)."""

    max_length: int
    dropped: list[tuple[int, int]] = field(default_factory=list)
    """Left out; with `split` a single answer and its question."""
    truncated: list[tuple[int, int]] = field(default_factory=list)
    split: list[tuple[int, int]] = field(default_factory=list)
    last_turn_only: int = 0
    """Rows that train one of several answers, because the template rewrites the earlier ones."""
    history_split: int = 0
    """Rows made into one for each answer for that reason."""
    dated: str | None = None
    """The date that the template has written into the rows, if it writes today's."""

    def lines(self) -> Iterator[str]:
        """For reading; none where every row is trained whole."""
        beyond = f"longer than training.max_length={self.max_length}"
        for pairs, what in (
            (self.dropped, f"left out, {beyond}"),
            (self.truncated, f"cut after the last answer that fits, {beyond}"),
            (self.split, f"made into several, {beyond}"),
        ):
            if pairs:
                yield f"{len(pairs)} {what}: {_named(pairs)}"
        if self.last_turn_only:
            yield f"{self.last_turn_only} train their last turn alone: the chat template rewrites earlier turns"
        if self.history_split:
            yield f"{self.history_split} made into one for each answer: the chat template rewrites earlier turns"
        if self.dated:
            yield f"the chat template writes today's date into them, {self.dated}; a server writes that of its own day"


class Encoding(NamedTuple):
    """Rows as they are trained; those of a row that was split stand one after the other."""

    rows: list[Row]
    encoded: list[Encoded]
    account: Account


def encode_rows(
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    max_length: int,
    too_long: TooLong = "error",
    rewritten_history: RewrittenHistory = "last_turn",
    assistant_only_loss: bool = True,
    stop: Collection[int] = (),
    today: datetime | None = None,
    within: Callable[[Encode], AbstractContextManager[Encode]] = nullcontext,
) -> Encoding:
    """The rows as ids and labels; DataError names those that the template refuses, and where none is left.

    `stop`, `today`: see `templates.encode_row`. `within`: what may encode rows instead of it.
    """
    plain = partial(encode_row, tokenizer, assistant_only_loss=assistant_only_loss, stop=stop, today=today)
    account = Account(max_length)
    kept: list[Part] = []
    with within(plain) as encode:
        for row in rows:
            for part in _by_history(row, encode, rewritten_history, account):
                if len(part[1].input_ids) > max_length:
                    kept += _shortened(part, encode, too_long, account)
                else:
                    kept.append(part)
    if too_long == "error" and account.dropped:
        raise DataError(
            f"{len(account.dropped)} rows are longer than training.max_length={max_length} tokens: "
            f"{_named(account.dropped)}; set training.max_length={max(length for _, length in account.dropped)}, "
            "shorten them, or set data.too_long to drop, truncate or split"
        )
    if rows and not kept:
        raise DataError(
            f"none of {len(rows)} rows is left: no answer fits training.max_length={max_length} tokens: "
            f"{_named(account.dropped)}; raise it"
        )
    account.last_turn_only = sum(encoded.last_turn_only for _, encoded in kept)
    if any(encoded.dated for _, encoded in kept):
        account.dated = f"{today or datetime.now():%Y-%m-%d}"
    return Encoding([row for row, _ in kept], [encoded for _, encoded in kept], account)


def encoder(config: Config, tokenizer: Any, base: Path, today: datetime | None = None) -> Callable[..., Encoding]:
    """`encode_rows` as the config says."""
    return partial(encode_rows, tokenizer, **_settings(config), stop=stop_ids(base), today=today)


def kept_encoder(
    config: Config, tokenizer: Any, base: Path, today: datetime | None = None
) -> Callable[[Sequence[Row]], Encoding]:
    """`encoder` that reads back what it has encoded before, see token_cache.py."""
    encode, settings = encoder(config, tokenizer, base, today), _settings(config)

    def encode_once(rows: Sequence[Row]) -> Encoding:
        key = fingerprint(base, rows, settings)
        only_answers = config.training.assistant_only_loss
        return encode(rows, within=lambda one: remembered(one, key, assistant_only_loss=only_answers))

    return encode_once


def _settings(config: Config) -> dict[str, Any]:
    """What the config decides of `encode_rows`."""
    return {
        "max_length": config.training.max_length,
        "too_long": config.data.too_long,
        "rewritten_history": config.data.rewritten_history,
        "assistant_only_loss": config.training.assistant_only_loss,
    }


def parity(
    render_ids: Callable[[list[Message], Any], list[int]],
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    decode: Callable[[list[int]], str],
) -> list[tuple[int, str]]:
    """(line, reason) of every row whose last trained answer is not served the prompt that it was trained after.

    `render_ids(messages, tools)`: the prompt's ids as a server makes them.
    """
    differing = []
    for row, one in zip(rows, encoded, strict=True):
        last = max(index for index, message in enumerate(row.messages) if is_trained(message))
        messages = [{k: v for k, v in message.items() if k != "weight"} for message in row.messages[:last]]
        trained, served = one.input_ids[: one.answers[-1][0]], render_ids(messages, row.tools)
        if trained != served:
            pairs = enumerate(zip(trained, served, strict=False))
            at = next((at for at, (a, b) in pairs if a != b), min(len(trained), len(served)))
            one_side, other = (decode(ids[max(0, at - 3) : at + 3]) for ids in (trained, served))
            differing.append((row.line, f"token {at + 1} is another: trained {one_side!r}, served {other!r}"))
    return differing


def stop_ids(base: Path) -> frozenset[int]:
    """Tokens at which a base stops, by its generation_config.json, or by config.json where that names none."""
    for name in ("generation_config.json", "config.json"):
        found = _json(base / name).get("eos_token_id")
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def require_vocabulary(base: Path, tokenizer: Any, encoded: Sequence[Encoded]) -> None:
    """BaseError where the base cannot read the rows' tokens, or nothing can fill up short rows.

    Tokens that no row has may be beyond the embeddings: Gemma 3 1B has one for images.
    """
    config = _json(base / "config.json")
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    unknown = {token for one in encoded for token in one.input_ids if size is not None and token >= size}
    if unknown:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(unknown)[:5])))
        raise BaseError(
            f"{tokenizer.name_or_path}: its tokenizer has tokens that the model has no embeddings for ({names}; the "
            f"model has {size}): new tokens are not trained, use the base's own tokenizer and chat template"
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise BaseError(f"{tokenizer.name_or_path}: its tokenizer names neither a pad nor an eos token: name one")


def _by_history(
    row: Row, encode: Callable[[Row], Encoded], rewritten_history: RewrittenHistory, account: Account
) -> list[Part]:
    """The row; or a row for each of its answers, where the template rewrites earlier ones and that is asked for."""
    encoded = encode(row)
    if rewritten_history == "last_turn" or not encoded.last_turn_only:
        return [(row, encoded)]
    account.history_split += 1
    answers = [index for index, message in enumerate(row.messages) if is_trained(message)]
    parts = [row._replace(messages=[*_context(row.messages[:at]), row.messages[at]]) for at in answers]
    return [(part, encode(part)) for part in parts]


def _shortened(part: Part, encode: Callable[[Row], Encoded], too_long: TooLong, account: Account) -> list[Part]:
    """What `too_long` leaves of a row that is longer than max_length."""
    row, length = part[0], len(part[1].input_ids)
    if too_long == "split":
        parts, beyond = _split(part, encode, account.max_length)
        account.dropped += [(row.line, tokens) for tokens in beyond]
        if parts:
            account.split.append((row.line, length))
        return parts
    shorter = _truncate(row, encode, account.max_length) if too_long == "truncate" else None
    (account.truncated if shorter else account.dropped).append((row.line, length))
    return [shorter] if shorter else []


def _truncate(row: Row, encode: Callable[[Row], Encoded], max_length: int) -> Part | None:
    """The longest beginning of the row that ends with a trained answer and fits."""
    answers = [index for index, message in enumerate(row.messages) if is_trained(message)]
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


def _split(part: Part, encode: Callable[[Row], Encoded], max_length: int) -> tuple[list[Part], list[int]]:
    """(rows within max_length that together train what the row trains, tokens of each exchange that fits in none).

    As many exchanges as fit make a row; the room that is left goes to those before them, as context.
    """
    row = part[0]
    if part[1].last_turn_only:
        last = max(index for index, message in enumerate(row.messages) if is_trained(message))
        row = row._replace(messages=[*_context(row.messages[:last]), *row.messages[last:]])
    system, exchanges = _exchanges(row.messages)
    parts: list[Part] = []
    beyond: list[int] = []

    def cut(first: int, begin: int, end: int) -> Part:
        context = _context([message for exchange in exchanges[first:begin] for message in exchange])
        trained = [message for exchange in exchanges[begin:end] for message in exchange]
        piece = row._replace(messages=[*system, *context, *trained])
        return piece, encode(piece)

    def fits(one: Part) -> bool:
        return len(one[1].input_ids) <= max_length

    def close(open_at: tuple[int, int, Part]) -> None:
        begin, end, best = open_at
        for first in range(begin - 1, -1, -1):
            wider = cut(first, begin, end)
            if not fits(wider):
                break
            best = wider
        parts.append(best)

    open_at: tuple[int, int, Part] | None = None
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


def _named(pairs: Sequence[tuple[int, int]]) -> str:
    named = ", ".join(f"line {line} ({length})" for line, length in pairs[:5])
    return named + (", …" if len(pairs) > 5 else "")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.is_file() else {}
