"""A training row: one conversation in OpenAI's chat format, with the line it came from."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

Message = dict[str, Any]
"""{"role": …, "content": …} and, where they apply, name, weight, tool_calls, tool_call_id."""


class Row(NamedTuple):
    line: int
    """Physical line in its file, from 1."""
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    """Functions that the assistant could call, in OpenAI's form."""


def to_json(row: Row) -> str:
    """The row as one line of JSONL, without the line break."""
    content: dict[str, Any] = {"messages": row.messages}
    if row.tools is not None:
        content["tools"] = row.tools
    return json.dumps(content, ensure_ascii=False)


def text_of(message: Message) -> str:
    """The message's text; text parts are joined, no content at all is empty."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or part.get("refusal") or "" for part in content)
    return content or ""


def is_trained(message: Message) -> bool:
    """Whether the loss counts this turn: an assistant's, unless its weight is 0."""
    return message["role"] == "assistant" and bool(message.get("weight", 1))


def shared_system_message(rows: Iterable[Row]) -> str | None:
    """The system message that every row begins with; None where they differ or have none."""
    found = {text_of(row.messages[0]) if row.messages[0]["role"] == "system" else None for row in rows}
    return found.pop() if len(found) == 1 else None
