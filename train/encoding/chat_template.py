"""A conversation in its tokenizer's chat template: as text, and as token ids."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from train.chats.message_form import in_form, message_form
from train.chats.rows import Message, text_of
from train.core.compat import render_chat_template, template_clock
from train.core.errors import BaseError, DataError
from train.models.base import template_names


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
        raise BaseError(
            f"{tokenizer.name_or_path} has no chat template: choose its instruct version, or set model.chat_template "
            f"to a .jinja file or to a name among TRL's: {template_names()}"
        )
    template = tokenizer.get_chat_template(tools=tools)
    stops = frozenset({*stop, tokenizer.eos_token_id} - {None})
    form = message_form(template, tokenizer.special_tokens_map)
    clock = Clock(today)
    formed = [in_form(message, form) for message in messages]
    chat = Conversation(tokenizer, template, formed, tools, name, stops, form.trailing_prompt)
    with ExitStack() as block:
        try:
            block.enter_context(template_clock(template, clock))
        except Exception as error:  # whatever jinja2 says of an invalid template
            raise BaseError(f"{tokenizer.name_or_path}: its chat template is no valid one: {error}") from None
        yield chat, clock


def _render(tokenizer: Any, template: str, messages: list[Message], tools: Any, add_generation_prompt: bool) -> str:
    """What `tokenizer.apply_chat_template` renders, without the half of its time that goes elsewhere."""
    return render_chat_template(
        template, messages, tools, tokenizer.special_tokens_map, add_generation_prompt=add_generation_prompt
    )
