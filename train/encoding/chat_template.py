"""A conversation in the form that a chat template reads, and its text in that template.

Templates differ in what they take: content as text or as a list of parts, arguments of calls as an object or as text,
a thought in a field of its own or within the answer. Each is tried once on a conversation of our own (`_form`).
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from train.chats.rows import Message, text_of
from train.core.errors import BaseError, DataError

THOUGHT = re.compile(r"\s*<(\w+)>(.*?)</\1>\s*(.*)", re.DOTALL)
QUESTION: Message = {"role": "user", "content": "probe-question"}
ANSWER: Message = {"role": "assistant", "content": "<think>probe-thought</think>probe-answer"}
CALL = {"name": "probe_call", "arguments": '{"probe_key": "probe-value"}'}
CALLING: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call00001", "type": "function", "function": CALL}],
}
SCHEMA = {"type": "object", "properties": {"probe_key": {"type": "string", "description": "A key."}}}
TOOLS = [{"type": "function", "function": {"name": "probe_call", "description": "A probe.", "parameters": SCHEMA}}]


class Form(NamedTuple):
    """How a template wants its messages."""

    in_parts: bool
    """Content as [{"type": "text", "text": …}]."""
    arguments_as_text: bool
    """Arguments of calls as JSON text, not as an object."""
    thought_apart: bool
    """An answer's <think>…</think> in `reasoning_content`."""
    unasked: str
    """Opening of the next answer that the template writes behind the last one, asked or not."""


class Clock:
    """What templates call for today's date."""

    def __init__(self, today: datetime | None) -> None:
        self.today = today
        self.asked = False

    def __call__(self, form: str) -> str:
        self.asked = True
        return (self.today or datetime.now()).strftime(form)


class Chat(NamedTuple):
    """A conversation as its tokenizer's template takes it."""

    tokenizer: Any
    messages: list[Message]
    tools: Any
    name: str
    """Of the conversation, for errors: `row at line 7`."""
    stop: frozenset[int]
    """Tokens at which the base stops."""
    unasked: str
    """See `Form`."""

    def text(self, messages: list[Message], *, answer_next: bool = False) -> str:
        """The messages in the template; with `answer_next` up to where the assistant's answer begins."""
        try:
            return _render(self.tokenizer, messages, self.tools, answer_next)
        except Exception as error:  # jinja2, TypeError, or whatever a template's own raise_exception throws
            reason = str(error)
        if messages[0]["role"] == "system" and len(messages) > 1:
            self.text(messages[1:], answer_next=answer_next)  # raises where the system message is not to blame
            raise DataError(
                f"{self.name}: the chat template refuses a system message ({reason}): put its text at the beginning "
                "of the first user message, in the rows and wherever the model is asked"
            )
        raise DataError(f"{self.name}: the chat template refuses it: {reason}")

    def prompt(self, index: int) -> str:
        """What a server feeds the model before the message at `index`."""
        return self.text(self.messages[:index], answer_next=True)

    def upto(self, index: int) -> str:
        """The conversation with the message at `index` as its last."""
        return self.text(self.messages[: index + 1]).removesuffix(self.unasked)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text tokenized as servers do."""
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def require_all(self, length: int) -> None:
        """An error where one of the first `length` messages, or the tools, is not in the prompt after them.

        Of a message that is one of its longest words, or a function that it calls; of an earlier answer templates may
        drop the rest.
        """
        text = self.prompt(length)
        parts = [("the tools", [tool["function"]["name"] for tool in self.tools or ()])]
        for index, message in enumerate(self.messages[:length]):
            words = [call["function"]["name"] for call in message.get("tool_calls", ())]
            if message["role"] != "assistant":
                words = sorted(set(re.findall(r"\w+", text_of(message))), key=len)[-3:]
            parts.append((f"message {index + 1} ({message['role']})", words))
        for what, words in parts:
            if words and not any(word in text for word in words):
                raise DataError(
                    f"{self.name}: the chat template leaves out {what}: put the text into a user message, "
                    "or choose a base whose template takes it"
                )


@contextmanager
def opened(
    tokenizer: Any,
    messages: Collection[Message],
    tools: Any,
    name: str,
    *,
    stop: Collection[int] = (),
    today: datetime | None = None,
) -> Iterator[tuple[Chat, Clock]]:
    """The conversation in its template's form; within the block the template is told that it is `today` (None: now)."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    if not tokenizer.chat_template:
        raise BaseError(f"{tokenizer.name_or_path} has no chat template: choose an instruct model, or its chat version")
    template = tokenizer.get_chat_template(tools=tools)
    stops = frozenset({*stop, tokenizer.eos_token_id} - {None})
    form = _form(tokenizer, template)
    clock = Clock(today)
    try:
        known = _compile_jinja_template(template).environment.globals  # compiled once and kept by transformers
    except Exception as error:
        raise BaseError(f"{tokenizer.name_or_path}: its chat template is no valid one: {error}") from None
    before, known["strftime_now"] = known["strftime_now"], clock
    try:
        yield (
            Chat(tokenizer, [_in_form(message, form) for message in messages], tools, name, stops, form.unasked),
            clock,
        )
    finally:
        known["strftime_now"] = before


def shared(one: str, other: str) -> int:
    """Length of the beginning that both have."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _render(tokenizer: Any, messages: list[Message], tools: Any, answer_next: bool) -> str:
    text: str = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=answer_next)
    return text


def _in_form(message: Message, form: Form) -> Message:
    """The message as servers hand it to a template, without its weight."""
    shown = {key: value for key, value in message.items() if key != "weight"}
    text = text_of(message)
    if message["role"] == "developer":
        shown["role"] = "system"
    if form.thought_apart and message["role"] == "assistant" and (thought := THOUGHT.fullmatch(text)):
        shown["reasoning_content"], text = thought[2].strip(), thought[3]
    shown["content"] = [{"type": "text", "text": text}] if form.in_parts else text
    if "tool_calls" in message and not form.arguments_as_text:
        shown["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in message["tool_calls"]
        ]
    return shown


@lru_cache(maxsize=8)
def _form(tokenizer: Any, template: str) -> Form:
    """The first form in which the template shows what it is given."""

    def shown(form: Form, *messages: Message, tools: Any = None, answer_next: bool = False) -> str:
        try:
            return _render(tokenizer, [_in_form(message, form) for message in messages], tools, answer_next)
        except Exception:  # not in this form; where in none, the rows themselves say why
            return ""

    def works(form: Form, *words: str) -> bool:
        text = (
            shown(form, QUESTION, ANSWER) if words[0] != CALL["name"] else shown(form, QUESTION, CALLING, tools=TOOLS)
        )
        return all(word in text for word in words) and "'text':" not in text  # a list printed as it is

    form = Form(in_parts=False, arguments_as_text=False, thought_apart=False, unasked="")
    if not works(form, "probe-question"):
        form = form._replace(in_parts=works(form._replace(in_parts=True), "probe-question"))
    if works(form._replace(thought_apart=True), "probe-thought", "probe-answer"):
        form = form._replace(thought_apart=True)
    if not works(form, "probe_call", "probe-value"):
        as_text = form._replace(arguments_as_text=True)
        form = as_text if works(as_text, "probe_call", "probe-value") else form
    last, inner = (shown(form, QUESTION, ANSWER, *more).partition("probe-answer")[2] for more in ((), (QUESTION,)))
    unasked = last[shared(last, inner) :]
    if unasked.strip() and shown(form, QUESTION, answer_next=True).endswith(unasked):
        form = form._replace(unasked=unasked)
    return form
