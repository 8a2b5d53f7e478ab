"""The form in which a chat template takes its messages.

Templates differ in what they take: content as text or as a list of parts, arguments of calls as an object or as text,
a thought in a field of its own or within the answer. Each is tried once on a conversation of our own.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple, cast

from train.chats.rows import Message, template_message, text_of
from train.core.compat import render_chat_template

THOUGHT = re.compile(r"\s*<(\w+)>(.*?)</\1>\s*(.*)", re.DOTALL)
QUESTION: Message = {"role": "user", "content": "probe-question"}
ANSWER: Message = {"role": "assistant", "content": "<think>probe-thought</think>probe-answer"}
CALL = {"name": "probe_call", "arguments": '{"probe_key": "probe-value"}'}
CALLING: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call00001", "type": "function", "function": CALL}],
}
TOOL_SCHEMA = {"type": "object", "properties": {"probe_key": {"type": "string", "description": "A key."}}}
TOOLS = [{"type": "function", "function": {"name": "probe_call", "description": "A probe.", "parameters": TOOL_SCHEMA}}]


class MessageForm(NamedTuple):
    """How a template wants its messages."""

    in_parts: bool
    """Whether content is a list of parts: [{"type": "text", "text": …}]."""
    arguments_as_text: bool
    """Whether arguments of calls are JSON text, not an object."""
    thought_apart: bool
    """Whether an answer's <think>…</think> goes into `reasoning_content`."""
    trailing_prompt: str
    """Opening of the next answer that the template writes behind the last one, asked or not."""


def message_form(template: str, special_tokens: dict[str, str]) -> MessageForm:
    """The first form in which the template shows what it is given; `special_tokens`: bos_token, eos_token, …"""
    return _message_form(template, tuple(sorted(special_tokens.items())))


def in_form(message: Message, form: MessageForm) -> Message:
    """The message as servers hand it to a template, without its weight."""
    formed = template_message(message, arguments_as_text=form.arguments_as_text)
    text = text_of(formed)
    if form.thought_apart and message["role"] == "assistant" and (thought := THOUGHT.fullmatch(text)):
        formed["reasoning_content"], text = thought[2].strip(), thought[3]
    formed["content"] = [{"type": "text", "text": text}] if form.in_parts else text
    return cast(Message, {key: value for key, value in formed.items() if value is not None})  # as transformers does


def common_prefix(text: str, other: str) -> int:
    """Number of characters that both texts begin with."""
    return next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))


@lru_cache(maxsize=8)
def _message_form(template: str, special_tokens: tuple[tuple[str, str], ...]) -> MessageForm:
    special = dict(special_tokens)

    def rendered(form: MessageForm, *messages: Message, tools: Any = None, add_generation_prompt: bool = False) -> str:
        try:
            formed = [in_form(message, form) for message in messages]
            return render_chat_template(template, formed, tools, special, add_generation_prompt=add_generation_prompt)
        except Exception:  # not in this form; where in none, the rows themselves say why
            return ""

    def works(form: MessageForm, *words: str) -> bool:
        text = (
            rendered(form, QUESTION, ANSWER)
            if words[0] != CALL["name"]
            else rendered(form, QUESTION, CALLING, tools=TOOLS)
        )
        return all(word in text for word in words) and "'text':" not in text  # a list printed as it is

    form = MessageForm(in_parts=False, arguments_as_text=False, thought_apart=False, trailing_prompt="")
    if not works(form, "probe-question"):
        form = form._replace(in_parts=works(form._replace(in_parts=True), "probe-question"))
    if works(form._replace(thought_apart=True), "probe-thought", "probe-answer"):
        form = form._replace(thought_apart=True)
    if not works(form, "probe_call", "probe-value"):
        as_text = form._replace(arguments_as_text=True)
        form = as_text if works(as_text, "probe_call", "probe-value") else form
    last, inner = (rendered(form, QUESTION, ANSWER, *more).partition("probe-answer")[2] for more in ((), (QUESTION,)))
    trailing_prompt = last[common_prefix(last, inner) :]
    if trailing_prompt.strip() and rendered(form, QUESTION, add_generation_prompt=True).endswith(trailing_prompt):
        form = form._replace(trailing_prompt=trailing_prompt)
    return form
