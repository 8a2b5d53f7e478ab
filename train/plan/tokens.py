"""How many tokens the rows have: counted with the base's tokenizer where its files are here, else estimated.

The tokenizer runs without torch, and its chat template is rendered whole, once a row. Training renders each
answer's prompt too and may end a row at its last end-of-turn token, so a row can differ by a token or two.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from train.chats.message_form import in_form, message_form
from train.chats.rows import Message, Row, is_trained, text_of
from train.core.compat import render_chat_template
from train.core.config import Config
from train.core.errors import BaseError
from train.models.base import chat_template_source, chosen_template, read_json

AROUND = 5  # tokens that a template such as ChatML writes around a message
CYRILLIC, IDEOGRAPH, OTHER = 0.42, 0.65, 0.25
"""Tokens a character.

The first makes a Russian chat, four fifths of it Cyrillic letters, the 2.61 characters a token measured for Qwen3; the
others are rules of thumb.
"""
RELATIVE = {"gemma": 2.61 / 3.02, "gemma2": 2.61 / 3.02, "gemma3_text": 2.61 / 3.02, "mistral": 2.61 / 2.74,
            "llama": 2.61 / 2.66, "gpt_oss": 2.61 / 3.07}  # fmt: skip
"""Tokens for one of Qwen3's, by architecture, measured on Russian chats."""


class Tokens(NamedTuple):
    """Numbers of tokens of the rows, and how they were counted."""

    lengths: list[int]
    """Tokens of each training row, at most training.max_length."""
    held_out: list[int]
    """Tokens of each held-out row, likewise."""
    trained: int
    """Tokens of the training rows that the loss counts."""
    too_long: int
    """Training rows longer than training.max_length."""
    answer: float
    """Tokens of an answer on average, its end included."""
    how: str
    """How they were counted, in words: `counted with the base's tokenizer and chat template`, or an estimate."""

    @property
    def total(self) -> int:
        return sum(self.lengths)


def both_answers(preferred: Tokens, other: Tokens) -> Tokens:
    """The tokens of pairs: those of both rows of a pair are computed in one pass."""
    lengths, held_out = (
        [one + two for one, two in zip(*sides, strict=False)]
        for sides in ((preferred.lengths, other.lengths), (preferred.held_out, other.held_out))
    )
    return Tokens(
        lengths,
        held_out,
        preferred.trained + other.trained,
        max(preferred.too_long, other.too_long),
        (preferred.answer + other.answer) / 2,
        f"{preferred.how}; both answers of each pair, without the pass for the reference",
    )


def count_tokens(
    config: Config, folder: Path | None, model_type: str, rows: Sequence[Row], held_out: Sequence[Row]
) -> Tokens:
    """Tokens of training and held-out rows; `folder` is the base's, None where its files are not here."""
    limit = config.training.max_length
    chosen = chosen_template(config.model)  # a name that does not exist is an error even where nothing is rendered
    if folder is not None and (folder / "tokenizer.json").is_file():
        count = _tokenizer(folder)
        text_of_chat, how = _template(folder, chosen)
        how = how if chosen is None else f"{how} {config.model.chat_template}"
    else:
        count = _estimator(model_type)
        text_of_chat, how = None, "estimated from the number of characters: the base's tokenizer is not here"

    lengths, answers, refused = [], 0, 0
    sizes: list[int] = []
    for index, row in enumerate([*rows, *held_out]):
        rendered = text_of_chat(row) if text_of_chat else None
        refused += text_of_chat is not None and rendered is None
        contents = [count(_content(message)) for message in row.messages]
        length = count(rendered) if rendered is not None else sum(contents) + AROUND * len(contents)
        lengths.append(length)
        if index < len(rows):
            said = [n + 1 for n, m in zip(contents, row.messages, strict=True) if is_trained(m)]  # + end
            sizes += said
            answers += min(sum(said) if config.training.assistant_only_loss else length, limit)
    ours = lengths[: len(rows)]
    if config.data.too_long == "drop":
        ours = [length for length in ours if length <= limit]
    return Tokens(
        lengths=[min(length, limit) for length in ours],
        held_out=[min(length, limit) for length in lengths[len(rows) :]],
        trained=answers,
        too_long=sum(length > limit for length in lengths[: len(rows)]),
        answer=sum(sizes) / max(1, len(sizes)),
        how=how + (f"; {refused} rows that it refuses are estimated" if refused else ""),
    )


def padded_tokens(lengths: Sequence[int], batch_size: int) -> int:
    """Tokens that a pass over the rows computes, padding included, in batches as drawn by chance."""
    shuffled = random.Random(0).sample(lengths, len(lengths))
    batches = [shuffled[at : at + batch_size] for at in range(0, len(shuffled), batch_size)]
    return sum(max(batch) * len(batch) for batch in batches)


def packed_rows(lengths: Sequence[int], size: int) -> int:
    """Rows of `size` tokens that best-fit-decreasing packs the rows into."""
    rooms: dict[int, int] = {}  # free tokens → packs with as many
    packs = 0
    for length in sorted(lengths, reverse=True):
        room = min((room for room in rooms if room >= length), default=None)
        if room is None:
            packs += 1
            room = size
        else:
            rooms[room] -= 1
            if not rooms[room]:
                del rooms[room]
        if room > length:
            rooms[room - length] = rooms.get(room - length, 0) + 1
    return packs


def _content(message: Message) -> str:
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "".join([text_of(message), *calls])


def _tokenizer(folder: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise BaseError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _estimator(model_type: str) -> Callable[[str], int]:
    share = RELATIVE.get(model_type, 1.0)

    def estimate(text: str) -> int:
        cyrillic = len(re.findall(r"[\u0400-\u04ff]", text))
        ideographs = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", text))
        rest = len(text) - cyrillic - ideographs
        return round(share * (CYRILLIC * cyrillic + IDEOGRAPH * ideographs + OTHER * rest))

    return estimate


def _template(folder: Path, chosen: str | None) -> tuple[Callable[[Row], str | None] | None, str]:
    """(what renders a row by the chat template, how the tokens are then counted)."""
    exact = "counted with the base's tokenizer and chat template"
    rough = f"counted with the base's tokenizer, and {AROUND} tokens a message for the chat template"
    source = chosen or chat_template_source(folder)
    if source is None:
        return None, rough
    special = {
        key: value["content"] if isinstance(value, dict) else value
        for key, value in read_json(folder / "tokenizer_config.json").items()
        if key in ("bos_token", "eos_token", "pad_token", "unk_token") and value
    }

    form = message_form(source, special)

    def render(row: Row) -> str | None:
        try:
            return render_chat_template(source, [in_form(m, form) for m in row.messages], row.tools, special)
        except Exception:  # whatever a template makes of a row it was not written for; training says what
            return None

    return render, exact
