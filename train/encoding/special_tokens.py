"""Special tokens of a base that stand typed in a text: tokenized, they would be real turns, not what somebody said."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

from train.chats.rows import Message, Row
from train.core.errors import DataError

SpecialTokens = Literal["error", "strip"]
TEXT_KEYS = ("content", "reasoning_content", "refusal", "name", "text")


def require_none(tokenizer: Any, messages: Sequence[Message], name: str) -> None:
    """DataError where a message holds a special token of the base; `name`: what the error calls the conversation."""
    for number, message in enumerate(messages, 1):
        if token := next(_found(tokenizer, message), None):
            raise DataError(
                f"{name}: message {number} holds {token!r}, a special token of the model: take it out, since it would "
                "not be read as text"
            )


def without_special_tokens(tokenizer: Any, row: Row) -> Row:
    """The row without the special tokens of the base that its messages hold; the row itself where they hold none."""
    pattern = _pattern(tokenizer)
    if pattern is None or not any(next(_found(tokenizer, message), None) for message in row.messages):
        return row
    return row._replace(messages=[cast(Message, _stripped(pattern, message)) for message in row.messages])


def strip_or_refuse(tokenizer: Any, rows: Sequence[Row], special_tokens: SpecialTokens) -> tuple[list[Row], list[int]]:
    """(the rows as they may be encoded, lines of those that were changed); DataError by line where that is refused."""
    held = [(row, token) for row in rows if (token := _first(tokenizer, row))]
    if held and special_tokens == "error":
        named = ", ".join(f"line {row.line} ({token})" for row, token in held[:5]) + (", …" if len(held) > 5 else "")
        raise DataError(
            f"{len(held)} rows hold special tokens of the base as text: {named}; they would become turns and ends of "
            "turns: take them out, or set data.special_tokens=strip"
        )
    cleaned = [without_special_tokens(tokenizer, row) for row in rows] if held else list(rows)
    empty = [row.line for row in cleaned if any(_is_empty(message) for message in row.messages)] if held else []
    if empty:
        raise DataError(f"row at line {empty[0]}: a message is empty without its special tokens: take the row out")
    return cleaned, [row.line for row, _ in held]


def _first(tokenizer: Any, row: Row) -> str | None:
    return next((token for message in row.messages for token in _found(tokenizer, message)), None)


def _found(tokenizer: Any, message: Message) -> Iterator[str]:
    """The special tokens in the texts of a message, of its parts and calls."""
    pattern = _pattern(tokenizer)
    if pattern is not None:
        for text in _texts(message):
            yield from pattern.findall(text)


def _texts(value: Any) -> Iterator[str]:
    """Every text of a message that a template may write."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in (*TEXT_KEYS, "tool_calls", "function", "arguments"):
                yield from _texts(item)


def _stripped(pattern: re.Pattern[str], value: Any) -> Any:
    """The value with every text that `_texts` finds stripped."""
    if isinstance(value, str):
        while (shorter := pattern.sub("", value)) != value:  # what is left may make a token again
            value = shorter
        return value
    if isinstance(value, list):
        return [_stripped(pattern, item) for item in value]
    if isinstance(value, dict):
        inner = (*TEXT_KEYS, "tool_calls", "function", "arguments")
        return {key: _stripped(pattern, item) if key in inner else item for key, item in value.items()}
    return value


def _is_empty(message: Message) -> bool:
    content = message.get("content")
    return isinstance(content, str) and not content.strip() and not message.get("tool_calls")


@lru_cache(maxsize=8)
def _pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds the special tokens of a tokenizer, the longest first; None where it has none."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= {token for token in tokenizer.all_special_tokens if token.strip()}
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
