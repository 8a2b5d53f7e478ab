"""Replaces personal data in every part of a row by placeholders, and in files of rows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from train.chats.privacy.scrub import PLACEHOLDER, Scrubber, replacement_table_path, write_replacement_table
from train.chats.readers import read_rows
from train.chats.rows import Message, Row, row_to_json
from train.core.files import require_new, write_whole


def scrub_file(
    file: Path, output: Path | None, *, names: Iterable[str], keep: Iterable[str], placeholders: bool, force: bool
) -> None:
    """Write the file's rows without personal data, and beside them the private table of what was replaced.

    Forms of `names` become invented names, or with `placeholders` <ИМЯ_1>, …; forms of `keep` stay. `output` is by
    default FILE_scrubbed.jsonl.
    """
    target = output or file.with_name(f"{file.name.split('.')[0]}_scrubbed.jsonl")
    for path in (target, replacement_table_path(target)):
        require_new(path, force)
    scrubber = Scrubber(names, keep, invent=not placeholders)
    rows = [scrub_row(row, scrubber) for row in read_rows(file)]
    write_whole(target, (row_to_json(row) + "\n" for row in rows), replace=force)
    table = write_replacement_table(scrubber, target, force=force)
    count = sum(replacement.times for replacement in scrubber.replaced)
    print(f"{target}: {len(rows)} rows, {count} places replaced\n{table}: what was replaced, for your eyes only")


def scrub_row(row: Row, scrubber: Scrubber) -> Row:
    """The row with its texts, `name` fields and tool calls' arguments scrubbed.

    A `name` field becomes its placeholder without brackets (ИМЯ_1): they are forbidden in it.
    """
    return row._replace(messages=[_scrub_message(message, scrubber) for message in row.messages])


def _scrub_message(message: Message, scrubber: Scrubber) -> Message:
    scrubbed = message.copy()
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, str):
        scrubbed["content"] = scrubber.scrub(content)
    if isinstance(refusal, str):
        scrubbed["refusal"] = scrubber.scrub(refusal)
    if isinstance(content, list):
        scrubbed["content"] = [
            {key: scrubber.scrub(value) if key in ("text", "refusal") else value for key, value in part.items()}
            for part in content
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
        scrubbed = _scrub_values(arguments, scrubber)
        text = function["arguments"] if scrubbed == arguments else msgspec.json.encode(scrubbed).decode()
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        text = scrubber.scrub(function["arguments"])
    return {**call, "function": {**function, "arguments": text}}


def _scrub_values(value: Any, scrubber: Scrubber) -> Any:
    """The JSON value with its texts scrubbed, and whole numbers as long as a phone's; keys stay."""
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
