"""What makes a row valid, said twice: as a type that a parser checks at full speed, and in words for what it refuses.

The rules are those of OpenAI's fine-tuning files, FineTuneChatRequestInput (openai-openapi, 2025-03-21); where OpenAI
publishes nothing the stricter reading holds, so that a file which passes here passes there. tests/test_rules.py holds
that both forms refuse the same rows.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, cast

from msgspec import UNSET, Meta, Struct, UnsetType

from train.chats.rows import Message, is_trained, text_of

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ROW_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
MESSAGE_KEYS = {"role", "content", "name", "weight", "refusal", "tool_calls", "tool_call_id", "function_call"}
FUNCTION_NAME = r"[A-Za-z0-9_-]{1,64}"
TYPOGRAPHIC = "“”„«»‘’"
TEXT_OR_QUOTE = re.compile(
    rf"""
    "\w+(?P<closing>[{TYPOGRAPHIC}])\s*:\s*"          # a key that ends in another quote than it began with
    | "(?:[^"\\]|\\.)*(?:"|\Z)                      # a key or text in JSON
    | [{{\[,:]\s*(?P<opening>[{TYPOGRAPHIC}'])        # where one begins
    """,
    re.VERBOSE | re.DOTALL,
)


class Problem(NamedTuple):
    """What is wrong with a file of rows, or looks wrong."""

    line: int
    """Physical line, from 1; 0 for the file as a whole."""
    kind: str
    message: str


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True, gc=False):
    """{"type": "text", "text": …}."""

    text: str


Content = str | Annotated[list[TextPart], Meta(min_length=1)]


class PlainMessage(Struct, tag_field="role", forbid_unknown_fields=True, gc=False):
    """A message without tool calls; its role decides which of the subclasses it is."""

    content: Content
    name: str | UnsetType = UNSET


class SystemMessage(PlainMessage, tag="system"):
    pass


class DeveloperMessage(PlainMessage, tag="developer"):
    pass


class UserMessage(PlainMessage, tag="user"):
    pass


class AssistantMessage(PlainMessage, tag="assistant"):
    weight: Literal[0, 1] = 1


class PlainRow(Struct, forbid_unknown_fields=True, gc=False):
    """A row without tools, as nearly all are; `row_problems` judges the others."""

    messages: Annotated[list[SystemMessage | DeveloperMessage | UserMessage | AssistantMessage], Meta(min_length=1)]


def is_valid(row: PlainRow) -> bool:
    """Whether a parsed row fulfils what its type cannot say: it ends on an answer, trains one, and none is empty."""
    last = row.messages[-1]
    if type(last) is not AssistantMessage:
        return False
    trained = False
    for message in row.messages:
        if type(message) is AssistantMessage:
            content = message.content
            if not isinstance(content, str):
                content = "".join(part.text for part in content)
            if not content or content.isspace():
                return False
            trained = trained or message.weight == 1
    return trained


def row_problems(line: int, row: Any) -> Iterator[Problem]:
    """Every problem of one row, which may be any JSON value."""
    if not isinstance(row, dict):
        yield Problem(line, "not_an_object", f'expected an object {{"messages": […]}}, found {json_kind(row)}')
        return
    if "messages" not in row:
        yield Problem(
            line, "missing_messages", f"no `messages`; found {', '.join(map(repr, list(row)[:8])) or 'no keys'}"
        )
        return
    for key in sorted(row.keys() - ROW_KEYS):
        yield Problem(line, "extra_key", f"unknown key {key!r} beside `messages`: remove it")
    yield from _check_tools(line, row)
    messages = row["messages"]
    if not isinstance(messages, list):
        yield Problem(line, "messages_not_list", f"`messages` is {json_kind(messages)}: expected a list")
        return
    if not messages:
        yield Problem(line, "empty_messages", "`messages` is empty")
        return
    all_valid = True
    for index, message in enumerate(messages, 1):
        for kind, text in _check_message(message):
            all_valid = False
            yield Problem(line, kind, f"message {index}: {text}")
    if all_valid:
        yield from _check_turns(line, messages)


def turn_warnings(roles: tuple[str, ...]) -> list[tuple[str, str]]:
    """(kind, message) of every warning about the order of the turns: it is allowed, but seldom meant."""
    warnings = []
    if "user" not in roles:
        warnings.append(("no_user_message", "no user message"))
    if {"system", "developer"} & set(roles[1:]):
        warnings.append(("system_not_first", "a system message after the first: many chat templates refuse it"))
    if ("user", "user") in pairwise(roles):
        warnings.append(("repeated_user", "two user messages in a row: many chat templates refuse them"))
    return warnings


def is_plain(record: dict[str, Any]) -> bool:
    """Whether a record has the keys and roles of OpenAI's rows alone, so that its problems are those of a row."""
    messages = record.get("messages")
    return (
        isinstance(messages, list)
        and record.keys() <= ROW_KEYS
        and all(
            isinstance(message, dict) and message.keys() <= MESSAGE_KEYS and message.get("role") in ROLES
            for message in messages
        )
    )


NESTED_TOO_DEEP = "nested too deep: a row is messages with text"


def quotes_hint(text: str) -> str:
    """What to say of JSON whose keys or texts stand in quotes of the wrong kind; empty where they are right."""
    for match in TEXT_OR_QUOTE.finditer(text):
        quote = match["closing"] or match["opening"]
        if quote == "'":
            return """: its quotes are ' as Python prints them: JSON wants " around keys and texts (json.dumps does)"""
        if quote:
            return f""": its quotes are typographic ({quote}): JSON wants " around keys and texts"""
    return ""


def json_kind(value: Any) -> str:
    """What a JSON value is, for people: `an object`, `a list`, `text`, …"""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _check_tools(line: int, row: dict[str, Any]) -> Iterator[Problem]:
    tools, functions = row.get("tools", []), row.get("functions", [])
    if not isinstance(tools, list) or not all(map(_is_tool, tools)):
        text = '`tools` is a list of {"type": "function", "function": {"name": …, "parameters": {…}}}'
        yield Problem(line, "invalid_tools", text)
    if not isinstance(functions, list) or not all(_is_tool({"type": "function", "function": f}) for f in functions):
        yield Problem(line, "invalid_tools", '`functions` is a list of {"name": …, "parameters": {…}}')
    if not isinstance(row.get("parallel_tool_calls", True), bool):
        yield Problem(line, "invalid_tools", "`parallel_tool_calls` is true or false")


def _is_tool(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    return isinstance(function, dict) and _is_function_name(function.get("name"))


def _is_function_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(FUNCTION_NAME, name) is not None


def _check_message(message: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(message, dict):
        yield "message_not_object", f"expected an object, found {json_kind(message)}"
        return
    role = message.get("role")
    if role is None:
        yield "missing_role", f"no `role`: one of {', '.join(ROLES)}"
    elif role not in ROLES:
        yield "unrecognized_role", f"unknown role {role!r}: one of {', '.join(ROLES)}"
    for key in sorted(message.keys() - MESSAGE_KEYS):
        yield "extra_message_key", f"unknown key {key!r}: remove it"
    calls = role == "assistant" and ("tool_calls" in message or "function_call" in message)
    content = message.get("content")
    if not isinstance(message.get("refusal", ""), str) or ("refusal" in message and role != "assistant"):
        yield "invalid_content", "`refusal` is text, on the assistant's messages only"
    elif content is None and not calls and not message.get("refusal"):
        yield "missing_content", "no `content`"
    elif content is not None and not _is_content(content, role):
        yield "invalid_content", f"`content` is {json_kind(content)}: expected text, or a list of text parts"
    elif role == "assistant" and not calls and not text_of(cast(Message, message)).strip():
        yield "missing_content", "the assistant's `content` is empty: it would learn to say nothing"
    if "name" in message and not isinstance(message["name"], str):
        yield "invalid_name", f"`name` is {json_kind(message['name'])}: expected text"
    weight = message.get("weight", 1)
    if type(weight) is not int or weight not in (0, 1) or ("weight" in message and role != "assistant"):
        yield "invalid_weight", f"`weight` {weight!r}: 0 or 1, on the assistant's messages only"
    yield from _check_calls(message, role)


def _check_calls(message: dict[str, Any], role: Any) -> Iterator[tuple[str, str]]:
    """(kind, message) of every problem with a message's tool calls, or with what makes it an answer to one."""
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        yield "unmatched_tool_call_id", "a tool's answer needs `tool_call_id`"
    elif role != "tool" and "tool_call_id" in message:
        yield "extra_message_key", "`tool_call_id` stands on a tool's answer only: remove it"
    if role == "function" and not _is_function_name(message.get("name")):
        yield "invalid_tool_call", "a function's answer needs the function's `name`"
    if "function_call" in message:
        yield from _check_call(message["function_call"] if role == "assistant" else None)
    if "tool_calls" not in message:
        return
    calls = message["tool_calls"]
    if role != "assistant" or not isinstance(calls, list) or not calls:
        yield "invalid_tool_call", "`tool_calls` is a list, on the assistant's messages only"
        return
    for call in calls:
        named = isinstance(call, dict) and isinstance(call.get("id"), str) and call.get("type") == "function"
        yield from _check_call(call.get("function") if named else None)


def _check_call(function: Any) -> Iterator[tuple[str, str]]:
    """(kind, message) of what is wrong with the function that an assistant calls: its name, its arguments."""
    if not isinstance(function, dict):
        text = 'a call is {"id": …, "type": "function", "function": {"name": …, "arguments": …}}, by the assistant'
        yield "invalid_tool_call", text
    elif not _is_function_name(function.get("name")):
        yield "invalid_tool_call", f"function name {function.get('name')!r}: letters, digits, `_`, `-`, at most 64"
    elif not _is_json_object(function.get("arguments")):
        yield "invalid_tool_call", "`arguments` must be text that holds a JSON object"


def _is_json_object(text: Any) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _check_turns(line: int, messages: list[Message]) -> Iterator[Problem]:
    """Problems that only the whole conversation shows; its messages are valid by themselves."""
    if not any(message["role"] == "assistant" for message in messages):
        yield Problem(line, "no_assistant_message", "no assistant message: there is nothing to learn")
    elif messages[-1]["role"] != "assistant":
        text = f"the last message is the {messages[-1]['role']}'s: end on an answer of the assistant"
        yield Problem(line, "last_message_not_assistant", text)
    elif not any(map(is_trained, messages)):
        yield Problem(line, "no_trainable_message", "every assistant message has weight 0: there is nothing to learn")
    unanswered: set[str] = set()
    for index, message in enumerate(messages, 1):
        if message["role"] == "tool":
            if message["tool_call_id"] not in unanswered:
                text = f"message {index}: tool_call_id {message['tool_call_id']!r} answers no earlier call"
                yield Problem(line, "unmatched_tool_call_id", text)
            unanswered.discard(message["tool_call_id"])
        elif unanswered:
            text = f"message {index}: the call {min(unanswered)!r} before it has no answer of role tool"
            yield Problem(line, "unmatched_tool_call_id", text)
            unanswered.clear()
        unanswered |= {call["id"] for call in message.get("tool_calls", ())}


def _is_content(content: Any, role: Any) -> bool:
    """Whether it is text, or a list of text parts; an assistant's may also be refusals."""
    if isinstance(content, str):
        return True
    kinds = ("text", "refusal") if role == "assistant" else ("text",)

    def is_part(part: Any) -> bool:
        kind = part.get("type") if isinstance(part, dict) and len(part) == 2 else None
        return kind in kinds and isinstance(part.get(kind), str)

    return isinstance(content, list) and bool(content) and all(map(is_part, content))
