"""Personal data in every part of a row replaced by placeholders."""

from typing import Any

import msgspec

from train.chats.privacy.scrub import PLACEHOLDER, Scrubber
from train.chats.rows import Message, Row


def scrub_row(row: Row, scrubber: Scrubber) -> Row:
    """The row with its texts, `name` fields and tool calls' arguments scrubbed.

    A `name` field becomes its placeholder without brackets (ИМЯ_1): they are forbidden in it.
    """
    return row._replace(messages=[_scrub_message(message, scrubber) for message in row.messages])


def _scrub_message(message: Message, scrubber: Scrubber) -> Message:
    scrubbed = dict(message)
    for field in ("content", "refusal"):
        if isinstance(message.get(field), str):
            scrubbed[field] = scrubber.scrub(message[field])
    if isinstance(message.get("content"), list):
        scrubbed["content"] = [
            {key: scrubber.scrub(value) if key in ("text", "refusal") else value for key, value in part.items()}
            for part in message["content"]
        ]
    if isinstance(message.get("name"), str):
        scrubbed["name"] = PLACEHOLDER.sub(lambda match: match[0].strip("<>"), scrubber.scrub(message["name"]))
    if message.get("tool_calls"):
        scrubbed["tool_calls"] = [_scrub_call(call, scrubber) for call in message["tool_calls"]]
    return scrubbed


def _scrub_call(call: dict[str, Any], scrubber: Scrubber) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = msgspec.json.decode(function["arguments"])
        clean = _scrub_values(arguments, scrubber)
        written = function["arguments"] if clean == arguments else msgspec.json.encode(clean).decode()
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        written = scrubber.scrub(function["arguments"])
    return {**call, "function": {**function, "arguments": written}}


def _scrub_values(value: Any, scrubber: Scrubber) -> Any:
    """Every text in a JSON value, and whole numbers as long as a phone's; the keys stay."""
    if isinstance(value, str):
        return scrubber.scrub(value)
    if isinstance(value, int) and value >= 10**10:
        scrubbed = scrubber.scrub(str(value))
        return value if scrubbed == str(value) else scrubbed
    if isinstance(value, list):
        return [_scrub_values(item, scrubber) for item in value]
    if isinstance(value, dict):
        return {name: _scrub_values(item, scrubber) for name, item in value.items()}
    return value
