"""A training row: one conversation in OpenAI's chat format, with the line it came from."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Required, TypedDict, cast

if TYPE_CHECKING:
    from train.core.config import Config


class Message(TypedDict, total=False):
    """One message of a conversation, in OpenAI's form."""

    role: Required[str]
    content: str | list[dict[str, Any]] | None
    """Text, or its parts; None beside tool calls."""
    name: str
    weight: int
    """0: the loss does not count this answer."""
    tool_calls: list[dict[str, Any]]
    """{"id": …, "type": "function", "function": {"name": …, "arguments": JSON as text}}"""
    tool_call_id: str
    """The call that a message of role tool answers."""
    refusal: str | None
    reasoning_content: str
    """The thought before an answer, for templates that take it apart."""


class Row(NamedTuple):
    """One conversation of a training file, and what its assistant could call."""

    line: int
    """Physical line in its file, from 1; in a JSON array or a table the number of the element."""
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    """Functions that the assistant could call, in OpenAI's form."""
    parallel_tool_calls: bool | None = None
    """Whether several may be called at once; it stays with the row, but is not trained."""


def row_from_openai(line: int, record: dict[str, Any]) -> Row:
    """The row of a checked record in OpenAI's format; functions of 2023 become tools."""
    tools = record.get("tools")
    if "functions" in record:
        tools = [*(tools or []), *({"type": "function", "function": function} for function in record["functions"])]
    messages: list[Message] = []
    for number, message in enumerate(record["messages"], 1):
        message = dict(message)
        if "function_call" in message:
            call = {"id": f"call_{number}", "type": "function", "function": message.pop("function_call")}
            message["tool_calls"] = [*message.get("tool_calls", []), call]
        if message["role"] == "function":
            message |= {"role": "tool", "tool_call_id": f"call_{number - 1}"}
        messages.append(cast(Message, message))
    return Row(line, messages, tools, record.get("parallel_tool_calls"))


def row_to_object(row: Row) -> dict[str, Any]:
    """The row as OpenAI's files hold it."""
    content: dict[str, Any] = {"messages": row.messages}
    if row.tools is not None:
        content["tools"] = row.tools
    if row.parallel_tool_calls is not None:
        content["parallel_tool_calls"] = row.parallel_tool_calls
    return content


def row_to_json(row: Row) -> str:
    """The row as one line of JSONL, without the line break."""
    return json.dumps(row_to_object(row), ensure_ascii=False)


def text_of(message: Message) -> str:
    """The message's text: parts are joined, a refusal is text like any other, no content at all is empty."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or part.get("refusal") or "" for part in content)
    return content or message.get("refusal") or ""


def without_weight(message: Message) -> Message:
    """A copy of the message without its weight."""
    copy = message.copy()
    copy.pop("weight", None)
    return copy


def template_message(message: Message, *, arguments_as_text: bool = False) -> Message:
    """The message as chat templates read it: without its weight, `developer` as `system`, content as text.

    The arguments of its calls become objects, unless `arguments_as_text`.
    """
    plain = without_weight(message)
    plain["content"] = text_of(message)
    if message["role"] == "developer":
        plain["role"] = "system"
    if "tool_calls" in message and not arguments_as_text:
        plain["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in message["tool_calls"]
        ]
    return plain


def trained_answers(messages: Sequence[Message]) -> list[int]:
    """Indices of the messages that the loss counts."""
    return [index for index, message in enumerate(messages) if is_trained(message)]


def configured_prompts(config: "Config") -> list[list[Message]]:
    """The config's prompts as conversations."""
    return [[Message(role=message.role, content=message.content) for message in prompt] for prompt in config.prompts]


def is_trained(message: Message) -> bool:
    """Whether the loss counts this turn: an assistant's, unless its weight is 0."""
    return message["role"] == "assistant" and bool(message.get("weight", 1))


def shared_system_message(rows: Iterable[Row]) -> str | None:
    """The system message that every row begins with; None where they differ or have none."""
    texts = {text_of(row.messages[0]) if row.messages[0]["role"] == "system" else None for row in rows}
    return texts.pop() if len(texts) == 1 else None
