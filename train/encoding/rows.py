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

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.rows import Row
from train.core.config import Config
from train.core.errors import BaseError, DataError
from train.core.progress import track
from train.encoding.loss_mask import Encoded, encode_each, encode_row
from train.encoding.special_tokens import SpecialTokens, strip_or_refuse
from train.encoding.too_long import (
    EncodedRow,
    EncodingReport,
    RewrittenHistory,
    TooLong,
    name_lines,
    parts_by_history,
    shorten,
)
from train.models.base import context_length, language_config, stop_ids


class Encoding(NamedTuple):
    """Rows as they are trained; those of a row that was split stand one after the other."""

    rows: list[Row]
    encoded: list[Encoded]
    report: EncodingReport


def encode_rows(
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    max_length: int,
    too_long: TooLong = "error",
    rewritten_history: RewrittenHistory = "last_turn",
    special_tokens: SpecialTokens = "error",
    assistant_only_loss: bool = True,
    stop: Collection[int] = (),
    today: datetime | None = None,
) -> Encoding:
    """The rows as ids and labels; DataError names those that the template refuses, and where none is left.

    `stop` and `today` are those of `loss_mask.encode_row`.
    """
    report = EncodingReport(max_length)
    rows, report.stripped = strip_or_refuse(tokenizer, rows, special_tokens)
    encode = partial(encode_row, tokenizer, assistant_only_loss=assistant_only_loss, stop=stop, today=today)
    each = encode_each(tokenizer, rows, assistant_only_loss=assistant_only_loss, stop=stop, today=today)
    kept: list[EncodedRow] = []
    for row, encoded in zip(rows, track(each, "rows → token ids", len(rows)), strict=True):
        for part in parts_by_history((row, encoded), encode, rewritten_history, report):
            if len(part[1].input_ids) > max_length:
                kept += shorten(part, encode, too_long, report)
            else:
                kept.append(part)
    if too_long == "error" and report.dropped:
        raise DataError(
            f"{len(report.dropped)} rows are longer than training.max_length={max_length} tokens: "
            f"{name_lines(report.dropped)}; set training.max_length={max(length for _, length in report.dropped)}, "
            "shorten them, or set data.too_long to drop, truncate or split"
        )
    if rows and not kept:
        raise DataError(
            f"none of {len(rows)} rows is left: no answer fits training.max_length={max_length} tokens: "
            f"{name_lines(report.dropped)}; raise it"
        )
    report.last_turn_only = sum(encoded.last_turn_only for _, encoded in kept)
    if any(encoded.dated for _, encoded in kept):
        report.dated = f"{today or datetime.now():%Y-%m-%d}"
    return Encoding([row for row, _ in kept], [encoded for _, encoded in kept], report)


def encoder(config: Config, tokenizer: Any, base: Path, today: datetime | None = None) -> Callable[..., Encoding]:
    """A function that encodes rows as the config says: `encode_rows` with its settings."""
    return partial(
        encode_rows,
        tokenizer,
        max_length=config.training.max_length,
        too_long=config.data.too_long,
        rewritten_history=config.data.rewritten_history,
        special_tokens=config.data.special_tokens,
        assistant_only_loss=config.training.assistant_only_loss,
        stop=stop_ids(base),
        today=today,
    )


def require_positions(base: Path, rows: Encoding) -> None:
    """DataError where rows have more tokens than the base has positions."""
    positions = context_length(language_config(base))
    lengths = [(row.line, len(encoded.input_ids)) for row, encoded in zip(rows.rows, rows.encoded, strict=True)]
    longer = [(line, length) for line, length in lengths if length > positions]
    if longer:
        raise DataError(
            f"{len(longer)} rows are longer than the base's {positions} positions: {name_lines(longer)}; set "
            f"training.max_length={positions} and data.too_long to drop, truncate or split, or take another base"
        )


def require_vocabulary(base: Path, tokenizer: Any, encoded: Sequence[Encoded]) -> None:
    """BaseError where the base cannot read the rows' tokens, or nothing can fill up short rows.

    Tokens that no row has may be beyond the embeddings: Gemma 3 1B has one for images.
    """
    size = language_config(base).get("vocab_size")
    unknown = {token for one in encoded for token in one.input_ids if size is not None and token >= size}
    if unknown:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(unknown)[:5])))
        raise BaseError(
            f"{tokenizer.name_or_path}: its tokenizer has tokens that the model has no embeddings for ({names}; the "
            f"model has {size}): new tokens are not trained, use the base's own tokenizer and chat template"
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise BaseError(f"{tokenizer.name_or_path}: its tokenizer names neither a pad nor an eos token: name one")
