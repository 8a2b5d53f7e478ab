"""Special tokens of a base that stand typed in a text: tokenized, they would be real turns, not what somebody said."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, cast

from train.chats.rows import Message, Row, text_of
from train.core.errors import DataError

SpecialTokens = Literal["error", "strip"]


def require_none(tokenizer: Any, messages: Sequence[Message], tools: Any, name: str) -> None:
    """DataError where a message or a tool holds a special token of the base; `name`: what it calls the conversation."""
    parts = [(f"message {number}", _texts(message)) for number, message in enumerate(messages, 1)]
    for place, texts in [*parts, ("a tool's definition", _strings(tools))]:
        for text in texts:
            if token := find_special_token(tokenizer, text):
                raise DataError(
                    f"{name}: {place} holds {token!r}, a special token of the model: take it out, "
                    "since it would not be read as text"
                )


def strip_or_refuse(tokenizer: Any, rows: Sequence[Row], special_tokens: SpecialTokens) -> tuple[list[Row], list[int]]:
    """(the rows as they may be encoded, lines of those that were changed); DataError by line where that is refused."""
    held = [(row, token) for row in rows if (token := _first(tokenizer, row))]
    if held and special_tokens == "error":
        named = ", ".join(f"line {row.line} ({token})" for row, token in held[:5]) + (", …" if len(held) > 5 else "")
        raise DataError(
            f"{len(held)} rows hold special tokens of the base as text: {named}; they would become turns and ends of "
            "turns: take them out, or set data.special_tokens=strip"
        )
    changed = {id(row): _without(tokenizer, row) for row, _ in held}
    for row, _ in held:
        if any(not text_of(m).strip() and not m.get("tool_calls") for m in changed[id(row)].messages):
            raise DataError(f"row at line {row.line}: a message is empty without its special tokens: take the row out")
    return [changed.get(id(row), row) for row in rows], [row.line for row, _ in held]


def find_special_token(tokenizer: Any, text: str) -> str | None:
    """The first special token of the base that stands in a text, as typed or as the tokenizer's normalizer makes it."""
    pattern, normalize = _pattern(tokenizer), _normalizer(tokenizer)
    if pattern is None:
        return None
    found = pattern.search(text) or (pattern.search(normalize(text)) if normalize else None)
    return found[0] if found else None


def _first(tokenizer: Any, row: Row) -> str | None:
    texts = (text for message in row.messages for text in _texts(message))
    found = (find_special_token(tokenizer, text) for text in chain(texts, _strings(row.tools)))
    return next(filter(None, found), None)


def _texts(message: Message) -> Iterator[str]:
    """Every text of a message that a template may write; parts of a content as they are joined."""
    yield text_of(message)
    yield from _strings({key: value for key, value in message.items() if key not in ("role", "content", "weight")})


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys among them; JSON text of a call's arguments as it is read."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(_parsed(item) if key == "arguments" else item)


def _parsed(arguments: Any) -> Any:
    """The arguments of a call from their JSON text; as they are where they are none."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _without(tokenizer: Any, row: Row) -> Row:
    """The row without special tokens of the base in any of its texts."""

    def clean(text: str) -> str:
        pattern, normalize = _pattern(tokenizer), _normalizer(tokenizer)
        while pattern and (found := pattern.sub("", text)) != text:  # what is left may make a token again
            text = found
        if normalize and pattern and pattern.search(normalize(text)):
            return clean(normalize(text))
        return text

    messages = []
    for message in row.messages:
        cleaned = {key: _mapped(clean, value) for key, value in message.items() if key not in ("role", "content")}
        content = message.get("content")
        joined = clean(text_of(message)) if isinstance(content, str | list) else content
        kept = content if isinstance(content, list) and joined == text_of(message) else joined
        messages.append(cast(Message, {"role": message["role"], "content": kept, **cleaned}))
    return row._replace(messages=messages, tools=_mapped(clean, row.tools))


def _mapped(clean: Callable[[str], str], value: Any) -> Any:
    """The JSON value with every string cleaned; JSON text of a call's arguments as it is read."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_mapped(clean, item) for item in value]
    if isinstance(value, dict):
        return {
            clean(key): json.dumps(_mapped(clean, _parsed(item)), ensure_ascii=False)
            if key == "arguments" and isinstance(item, str) and not isinstance(_parsed(item), str)
            else _mapped(clean, item)
            for key, item in value.items()
        }
    return value


@lru_cache(maxsize=8)
def _pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds the special tokens of a tokenizer, the longest first; None where it has none."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= {token for token in tokenizer.all_special_tokens if token.strip()}
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


@lru_cache(maxsize=8)
def _normalizer(tokenizer: Any) -> Callable[[str], str] | None:
    """What the tokenizer makes of a text before it looks for tokens that are marked as normalized; None for nothing."""
    marked = any(token.special and token.normalized for token in tokenizer.added_tokens_decoder.values())
    normalizer = tokenizer.backend_tokenizer.normalizer if marked and tokenizer.is_fast else None
    return normalizer.normalize_str if normalizer is not None else None
