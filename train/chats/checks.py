"""Checks a JSONL file of chat rows line by line and names every problem with its line and kind.

The rules are those of OpenAI's fine-tuning files, FineTuneChatRequestInput (openai-openapi, 2025-03-21); where OpenAI
publishes nothing the stricter reading holds, so that a file which passes here passes there.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import DataError, GovorError
from .rows import Message, Row, is_trained, text_of

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ROW_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
MESSAGE_KEYS = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal"}
MIN_EXAMPLES = 10  # OpenAI refuses a smaller file


class Problem(NamedTuple):
    line: int
    """Physical line, from 1; 0 for the file as a whole."""
    kind: str
    message: str


class Report(NamedTuple):
    examples: int
    errors: list[Problem]
    warnings: list[Problem]


def check_file(path: Path) -> Report:
    """Every problem of the file; `examples` counts its rows, good or bad."""
    errors: list[Problem] = []
    warnings: list[Problem] = []
    examples = 0
    for row, found, noticed in _scan(path):
        examples += row is not None or bool(found and found[0].line)
        errors += found
        warnings += noticed
    if 0 < examples < MIN_EXAMPLES:
        text = f"{examples} examples, at least {MIN_EXAMPLES} are needed: add rows"
        errors.append(Problem(0, "too_few_examples", text))
    return Report(examples, errors, warnings)


def read_rows(path: Path) -> list[Row]:
    """The file's rows, or a DataError with the first problems where any row is bad."""
    rows: list[Row] = []
    errors: list[Problem] = []
    for row, found, _ in _scan(path):
        errors += found
        if row is not None:
            rows.append(row)
    if errors:
        shown = [f"{place(path, problem)}: {problem.message}" for problem in errors[:3]]
        more = f"{len(errors)} problems, all shown by: govor validate {path}"
        raise DataError("\n  ".join(shown if len(errors) == 1 else [more, *shown]))
    return rows


def place(path: Path, problem: Problem) -> str:
    """`file:line`, or `file` for a problem of the whole file."""
    return f"{path}:{problem.line}" if problem.line else str(path)


def _scan(path: Path) -> Iterator[tuple[Row | None, list[Problem], list[Problem]]]:
    """Each row, or its errors; and warnings. Lines end at LF alone: Unicode has more line breaks, JSON has not."""
    if not path.is_file():
        raise GovorError(f"{path}: no such file" if not path.exists() else f"{path}: a folder, expected a JSONL file")
    seen = False
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                kind = _foreign_kind(raw)
                if kind is not None:
                    yield None, [Problem(0, *kind)], []
                    return
                if raw.startswith(b"\xef\xbb\xbf"):
                    raw = raw[3:]
                    yield None, [], [Problem(1, "byte_order_mark", "begins with a byte order mark: save without it")]
            if not raw.strip():
                yield None, [], [Problem(number, "blank_line", "blank line, skipped")]
                continue
            seen = True
            value, error = _parse(number, raw)
            if error is not None:
                yield None, [error], []
                continue
            errors = list(_check_row(number, value))
            if errors:
                yield None, errors, []
            else:
                yield Row(number, value["messages"], value.get("tools")), [], list(_notice(number, value["messages"]))
    if not seen:
        yield None, [Problem(0, "empty_file", "no rows in it: expected one JSON object a line")], []


def _foreign_kind(start: bytes) -> tuple[str, str] | None:
    """Kind and message where the first line shows that this is no JSONL at all."""
    if start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return "binary_file", "compressed: unpack it first"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "binary_file", "UTF-16 text: save it as UTF-8"
    if b"\x00" in start:
        return "binary_file", "binary data: expected JSONL, one JSON object a line"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return "json_array", "a JSON array: expected JSONL, one object a line without commas between them"
    return None


def _parse(line: int, raw: bytes) -> tuple[Any, Problem | None]:
    try:
        raw.decode("utf-8")  # first: a JSON reader may let broken UTF-8 through
        return msgspec.json.decode(raw), None
    except UnicodeDecodeError as error:
        return None, Problem(line, "invalid_utf8", f"byte {error.start + 1} is not UTF-8: save the file as UTF-8")
    except RecursionError:
        return None, Problem(line, "nesting_too_deep", "nested too deep: a row is messages with text")
    except msgspec.DecodeError as error:
        if "surrogate" in str(error):
            text = "half of a \\ud83d\\ude00 pair: remove it or write the whole character"
            return None, Problem(line, "lone_surrogate", text)
        return None, Problem(line, "invalid_json", f"not valid JSON: {error}")


def _check_row(line: int, row: Any) -> Iterator[Problem]:
    if not isinstance(row, dict):
        yield Problem(line, "not_an_object", f'expected an object {{"messages": […]}}, found {_json_kind(row)}')
        return
    if "messages" not in row:
        yield Problem(line, "missing_messages", f"no `messages`; found {', '.join(map(repr, row)) or 'no keys'}")
        return
    for key in row.keys() - ROW_KEYS:
        yield Problem(line, "extra_key", f"unknown key {key!r} beside `messages`: remove it")
    messages = row["messages"]
    if not isinstance(messages, list):
        yield Problem(line, "messages_not_list", f"`messages` is {_json_kind(messages)}: expected a list")
        return
    if not messages:
        yield Problem(line, "empty_messages", "`messages` is empty")
        return
    sound = True
    for index, message in enumerate(messages, 1):
        for kind, text in _check_message(message):
            sound = False
            yield Problem(line, kind, f"message {index}: {text}")
    if sound:
        yield from _check_turns(line, messages)


def _check_message(message: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(message, dict):
        yield "message_not_object", f"expected an object, found {_json_kind(message)}"
        return
    role = message.get("role")
    if role is None:
        yield "missing_role", f"no `role`: one of {', '.join(ROLES)}"
    elif role not in ROLES:
        yield "unrecognized_role", f"unknown role {role!r}: one of {', '.join(ROLES)}"
    for key in message.keys() - MESSAGE_KEYS:
        yield "extra_message_key", f"unknown key {key!r}: remove it"
    calls = role == "assistant" and ("tool_calls" in message or "function_call" in message)
    content = message.get("content")
    if content is None and not calls and not (role == "assistant" and message.get("refusal")):
        yield "missing_content", "no `content`"
    elif content is not None and not _is_content(content):
        yield "invalid_content", f"`content` is {_json_kind(content)}: expected text, or a list of text parts"
    elif role == "assistant" and not calls and not text_of(message).strip() and not message.get("refusal"):
        yield "missing_content", "the assistant's `content` is empty: it would learn to say nothing"
    weight = message.get("weight", 1)
    if type(weight) is not int or weight not in (0, 1) or ("weight" in message and role != "assistant"):
        yield "invalid_weight", f"`weight` {weight!r}: 0 or 1, on the assistant's messages only"
    yield from _check_calls(message, role)


def _check_calls(message: Message, role: Any) -> Iterator[tuple[str, str]]:
    """Tool calls and answers to them, each by itself."""
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        yield "unmatched_tool_call_id", "a tool's answer needs `tool_call_id`"
    if "tool_calls" not in message:
        return
    calls = message["tool_calls"]
    if role != "assistant" or not isinstance(calls, list) or not calls:
        yield "invalid_tool_call", "`tool_calls` is a list, on the assistant's messages only"
        return
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(call.get("id"), str) or call.get("type") != "function":
            text = 'a call is {"id": …, "type": "function", "function": {"name": …, "arguments": …}}'
            yield "invalid_tool_call", text
        elif not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(function.get("name"))):
            yield "invalid_tool_call", f"function name {function.get('name')!r}: letters, digits, `_`, `-`, at most 64"
        elif not isinstance(function.get("arguments"), str):
            yield "invalid_tool_call", "`arguments` must be text that holds JSON"


def _check_turns(line: int, messages: list[Message]) -> Iterator[Problem]:
    """What only the whole conversation shows."""
    if not any(message["role"] == "assistant" for message in messages):
        yield Problem(line, "no_assistant_message", "no assistant message: there is nothing to learn")
    elif messages[-1]["role"] != "assistant":
        text = f"the last message is the {messages[-1]['role']}'s: end on an answer of the assistant"
        yield Problem(line, "last_message_not_assistant", text)
    elif not any(map(is_trained, messages)):
        yield Problem(line, "no_trainable_message", "every assistant message has weight 0: there is nothing to learn")
    open_calls: set[str] = set()
    for index, message in enumerate(messages, 1):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                text = f"message {index}: tool_call_id {message['tool_call_id']!r} answers no earlier call"
                yield Problem(line, "unmatched_tool_call_id", text)
            open_calls.discard(message["tool_call_id"])
        open_calls |= {call["id"] for call in message.get("tool_calls", ())}


def _notice(line: int, messages: list[Message]) -> Iterator[Problem]:
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        yield Problem(line, "no_user_message", "no user message")
    if "system" in roles[1:]:
        yield Problem(line, "system_not_first", "a system message after the first: many chat templates refuse it")
    if ("user", "user") in pairwise(roles):
        yield Problem(line, "repeated_user", "two user messages in a row: many chat templates refuse them")


def _is_content(content: Any) -> bool:
    if isinstance(content, str):
        return True
    if not isinstance(content, list) or not content:
        return False
    return all(
        isinstance(part, dict) and part.get("type") in ("text", "refusal") and isinstance(part.get(part["type"]), str)
        for part in content
    )


def _json_kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
