"""A request to /v1/responses, and the chat request that it stands for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from train.chats.rows import Message, text_of
from train.serving.api_errors import bounded_json
from train.serving.chat_request import (
    IGNORED_FIELDS,
    AnswerRequest,
    ChatMessage,
    ChatRequest,
    MaxTokens,
    Metadata,
    Text,
    require_choice,
    require_format,
    require_function,
)

FIELDS_OF_CHAT = {"messages": "input", "response_format": "text", "max_completion_tokens": "max_output_tokens"}
"""A field of the chat request → the one of ours that it comes from, for errors."""


def _unsupported(value: Any) -> Any:
    if value not in (False, 0, [], {}):
        raise ValueError("this server cannot do that; leave the field out")
    return value


Unsupported = Annotated[Any, AfterValidator(_unsupported)]
"""A field of OpenAI's that cannot be ignored: it would change the answer."""


def _include(names: list[Any]) -> list[Any]:
    for name in names:
        if name != "reasoning.encrypted_content":  # thoughts are never encrypted here, so none are left out
            raise ValueError(f"this server cannot include {str(name)[:64]!r}")
    return names


def _text(text: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's `text`: its format is a chat's response_format, with the schema's fields one level higher."""
    form = text.get("format") or {"type": "text"}
    if unknown := text.keys() - {"format", "verbosity"}:
        raise ValueError(f"unknown field {min(unknown)!r}: expected format and verbosity")
    if not isinstance(form, dict):
        raise ValueError("expected an object as format")
    require_format(chat_format(form))
    return text


def chat_format(form: Mapping[str, Any]) -> dict[str, Any]:
    """A format as chat requests have it."""
    if form.get("type") != "json_schema":
        return dict(form)
    return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    require_function(_chat_tool(tool))
    return tool


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": tool.get("type"), "function": {key: value for key, value in tool.items() if key != "type"}}


def _chat_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _choice(choice: Any) -> Any:
    require_choice(_chat_choice(choice))
    return choice


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """An item of the input that can be read."""
    kind = item.get("type", "message")
    if kind == "item_reference":
        if not isinstance(item.get("id"), str):
            raise ValueError("expected the id of an item")
    elif (message := _chat_message(item)) is not None:
        try:
            ChatMessage.model_validate(message)
        except ValidationError as error:
            first = error.errors()[0]
            text = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{first['loc'][0] if first['loc'] else kind}: {text[0].lower()}{text[1:]}") from None
    return item


def _chat_message(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """The message of a chat that an item stands for; None for a thought, which no template is given again."""
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item.get("role"), "content": item.get("content")}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    if kind == "reasoning":
        return None
    raise ValueError(f"this server cannot read an item of the type {str(kind)[:64]!r}")


class ResponseRequest(AnswerRequest):
    """POST /v1/responses: OpenAI's fields, and the samplers that a chat request may have."""

    ignored: ClassVar = frozenset(IGNORED_FIELDS) - {"metadata", "store"} | {"reasoning", "stream_options"}

    input: Annotated[
        list[Annotated[dict[str, Any], AfterValidator(_item)]],
        BeforeValidator(_items),
        Field(min_length=1, max_length=4096),
    ]
    instructions: Text | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    store: bool = True
    metadata: Metadata | None = None
    max_output_tokens: MaxTokens | None = None
    text: Annotated[dict[str, Any], AfterValidator(_text), bounded_json(2**16)] | None = None
    tools: (
        Annotated[list[Annotated[dict[str, Any], AfterValidator(_tool)]], Field(max_length=128), bounded_json(2**18)]
        | None
    ) = None
    tool_choice: Annotated[Any, AfterValidator(_choice), bounded_json(2**12)] = None
    include: Annotated[list[Any], AfterValidator(_include)] | None = None
    truncation: Literal["disabled"] | None = None
    background: Unsupported = None
    context_management: Unsupported = None
    conversation: Unsupported = None
    max_tool_calls: Unsupported = None
    prompt: Unsupported = None
    top_logprobs: Unsupported = None

    def messages(self, find_item: Callable[[str], Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The input as messages of a chat. `find_item`: the item of an answer by its id."""
        messages: list[dict[str, Any]] = []
        for item in self.input:
            message = _chat_message(find_item(item["id"]) if item.get("type") == "item_reference" else item)
            if message is None:
                continue
            calls = message.get("tool_calls")
            if calls and messages and messages[-1]["role"] == "assistant":  # one answer with several items
                messages[-1].setdefault("tool_calls", []).extend(calls)
            else:
                messages.append(message)
        return messages

    def chat_request(self, messages: list[dict[str, Any]]) -> ChatRequest:
        """The request for an answer to these messages, under the instructions.

        pydantic's ValidationError where the conversation is too long, or has nothing but thoughts.
        """
        opening = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        form = (self.text or {}).get("format")
        fields = {
            "messages": [*opening, *messages],
            "max_completion_tokens": self.max_output_tokens,
            "tools": None if self.tools is None else list(map(_chat_tool, self.tools)),
            "tool_choice": _chat_choice(self.tool_choice),
            "response_format": form and chat_format(form),
        }
        return ChatRequest.model_validate(self.sampling_fields() | fields)


def answer_message(output: list[dict[str, Any]]) -> list[Message]:
    """An answer's items as the message that goes on the conversation; empty where it has neither text nor calls."""
    texts = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
    messages = [message for item in output if item["type"] == "function_call" and (message := _chat_message(item))]
    calls = [call for message in messages for call in message["tool_calls"]]
    if not texts and not calls:
        return []
    answer: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    return [cast(Message, answer | ({"tool_calls": calls} if calls else {}))]


def input_items(response: Mapping[str, Any], messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The items, oldest first, to which a stored response was the answer. `messages`: its conversation with the answer.

    Their ids hold that of the response, as those of its output do.
    """
    key = response["id"].partition("_")[2]
    items: list[dict[str, Any]] = []

    def add(prefix: str, kind: str, **fields: Any) -> None:
        items.append({"id": f"{prefix}_{key}_input_{len(items)}", "type": kind, "status": "completed", **fields})

    for message in messages[: len(messages) - len(answer_message(response["output"]))]:
        if message["role"] == "tool":
            add("fco", "function_call_output", call_id=message.get("tool_call_id"), output=text_of(message))
            continue
        if text := text_of(message):
            kind = "output_text" if message["role"] == "assistant" else "input_text"
            part: dict[str, Any] = {"type": kind, "text": text} | ({"annotations": []} if kind == "output_text" else {})
            add("msg", "message", role=message["role"], content=[part])
        for call in message.get("tool_calls") or ():
            add("fc", "function_call", call_id=call.get("id"), **call["function"])
    return items
