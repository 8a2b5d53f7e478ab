"""A conversation in the form that a chat template reads, and its text in that template.

Templates differ in what they take: content as text or as a list of parts, arguments of calls as an object or as text,
a thought in a field of its own or within the answer. Each is tried once on a conversation of our own (`_form`).
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

from train.chats.rows import Message, template_message, text_of
from train.core.compat import render_chat_template, template_clock
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


class Clock:
    """The function `strftime_now` of a chat template; it notes whether the template called it."""

    def __init__(self, today: datetime | None) -> None:
        self.today = today
        self.was_read = False

    def __call__(self, form: str) -> str:
        self.was_read = True
        return (self.today or datetime.now()).strftime(form)


class Conversation(NamedTuple):
    """A conversation as its tokenizer's template takes it."""

    tokenizer: Any
    template: str
    messages: list[Message]
    tools: Any
    name: str
    """What errors call the conversation: `row at line 7`."""
    stop: frozenset[int]
    """Tokens at which the base stops."""
    trailing_prompt: str
    """As in `MessageForm`: the opening of the next answer that the template writes unasked."""

    def text(self, messages: list[Message], *, add_generation_prompt: bool = False) -> str:
        """The messages in the template; with `add_generation_prompt` up to where the assistant's answer begins."""
        try:
            return _render(self.tokenizer, self.template, messages, self.tools, add_generation_prompt)
        except Exception as error:  # jinja2, TypeError, or whatever a template's own raise_exception throws
            reason = str(error)
        if messages[0]["role"] == "system" and len(messages) > 1:
            self.text(
                messages[1:], add_generation_prompt=add_generation_prompt
            )  # raises where the system message is not to blame
            raise DataError(
                f"{self.name}: the chat template refuses a system message ({reason}): put its text at the beginning "
                "of the first user message, in the rows and wherever the model is asked"
            )
        raise DataError(f"{self.name}: the chat template refuses it: {reason}")

    def prompt(self, index: int) -> str:
        """What a server feeds the model before the message at `index`."""
        return self.text(self.messages[:index], add_generation_prompt=True)

    def upto(self, index: int) -> str:
        """The conversation with the message at `index` as its last."""
        return self.text(self.messages[: index + 1]).removesuffix(self.trailing_prompt)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text tokenized as servers do."""
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def require_all(self, length: int, prompt: str) -> None:
        """DataError where one of the first `length` messages, or the tools, is not in the prompt after them.

        A message counts as present if one of its longest words, or a function that it calls, is there: templates may
        drop the rest of an earlier answer.
        """
        parts = [("the tools", [tool["function"]["name"] for tool in self.tools or ()])]
        for index, message in enumerate(self.messages[:length]):
            words = [call["function"]["name"] for call in message.get("tool_calls", ())]
            if message["role"] != "assistant" and text_of(message).strip() not in prompt:
                words = sorted(set(re.findall(r"\w+", text_of(message))), key=len)[-3:]
            parts.append((f"message {index + 1} ({message['role']})", words))
        for what, words in parts:
            if words and not any(word in prompt for word in words):
                raise DataError(
                    f"{self.name}: the chat template leaves out {what}: put the text into a user message, "
                    "or choose a base whose template takes it"
                )


@contextmanager
def open_conversation(
    tokenizer: Any,
    messages: Collection[Message],
    tools: Any,
    name: str,
    *,
    stop: Collection[int] = (),
    today: datetime | None = None,
) -> Iterator[tuple[Conversation, Clock]]:
    """A conversation in its template's form; within the block the template's date is `today` (None: now).

    BaseError where the tokenizer has no chat template or an invalid one.
    """
    if not tokenizer.chat_template:
        raise BaseError(f"{tokenizer.name_or_path} has no chat template: choose an instruct model, or its chat version")
    template = tokenizer.get_chat_template(tools=tools)
    stops = frozenset({*stop, tokenizer.eos_token_id} - {None})
    form = _form(tokenizer, template)
    clock = Clock(today)
    formed = [_in_form(message, form) for message in messages]
    chat = Conversation(tokenizer, template, formed, tools, name, stops, form.trailing_prompt)
    with ExitStack() as block:
        try:
            block.enter_context(template_clock(template, clock))
        except Exception as error:  # whatever jinja2 says of an invalid template
            raise BaseError(f"{tokenizer.name_or_path}: its chat template is no valid one: {error}") from None
        yield chat, clock


def common_prefix(text: str, other: str) -> int:
    """Number of characters that both texts begin with."""
    return next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))


def _render(tokenizer: Any, template: str, messages: list[Message], tools: Any, add_generation_prompt: bool) -> str:
    """What `tokenizer.apply_chat_template` renders, without the half of its time that goes elsewhere."""
    return render_chat_template(
        template, messages, tools, tokenizer.special_tokens_map, add_generation_prompt=add_generation_prompt
    )


def _in_form(message: Message, form: MessageForm) -> Message:
    """The message as servers hand it to a template, without its weight."""
    formed = template_message(message, arguments_as_text=form.arguments_as_text)
    text = text_of(formed)
    if form.thought_apart and message["role"] == "assistant" and (thought := THOUGHT.fullmatch(text)):
        formed["reasoning_content"], text = thought[2].strip(), thought[3]
    formed["content"] = [{"type": "text", "text": text}] if form.in_parts else text
    return cast(Message, {key: value for key, value in formed.items() if value is not None})  # as transformers does


@lru_cache(maxsize=8)
def _form(tokenizer: Any, template: str) -> MessageForm:
    """The first form in which the template shows what it is given."""

    def rendered(form: MessageForm, *messages: Message, tools: Any = None, add_generation_prompt: bool = False) -> str:
        try:
            formed = [_in_form(message, form) for message in messages]
            return _render(tokenizer, template, formed, tools, add_generation_prompt)
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
