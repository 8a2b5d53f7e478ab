"""Any chat template → token ids and loss mask, by rendering prefixes of the conversation.

For an answer at index i three renderings are compared as token ids:

    prompt   messages[:i] with the generation prompt: exactly what a server feeds the model before it answers
    upto     messages[:i+1]
    full     the whole conversation

Where full begins with upto and upto with prompt, the trained tokens are those between prompt and the end-of-turn
token, that one included. No template is known by name and none is edited, so training equals serving by construction.
A template that rewrites earlier turns (one that strips old thinking, say) breaks the nesting; such a row is trained on
its last turn alone, where nothing comes after and the comparison holds again.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from .chats.rows import Message, Row, is_trained, text_of
from .errors import BaseError, DataError

IGNORED = -100  # torch's cross entropy skips labels of this value


class Encoded(NamedTuple):
    """A row as the model sees it."""

    input_ids: list[int]
    labels: list[int]
    """Equal to input_ids where trained, -100 elsewhere; same length."""
    end_of_turn: int
    """The token that ends the assistant's turn."""
    last_turn_only: bool
    """The template rewrites earlier turns, so only the last one is trained."""


class _NotNestedError(Exception):
    """Rendering more of the conversation changed what came before."""


def encode_row(tokenizer: Any, row: Row, *, assistant_only_loss: bool = True) -> Encoded:
    """Ids and labels of one conversation; DataError names the row that the template cannot render."""
    messages = [_for_template(message) for message in row.messages]
    try:
        full = render(tokenizer, messages, tools=row.tools)
        answers = [index for index, message in enumerate(row.messages) if is_trained(message)]
        try:
            spans = [_span(tokenizer, messages, index, full, row.tools) for index in answers]
            last_turn_only = False
        except _NotNestedError:
            answers = [index for index in answers if index == len(messages) - 1]
            spans = [_span(tokenizer, messages, index, full, row.tools) for index in answers]
            last_turn_only = True
    except _NotNestedError:
        raise DataError(
            f"row at line {row.line}: the chat template renders the prompt of the last answer differently "
            "once the answer follows, so training could not equal serving"
        ) from None
    except BaseError:
        raise
    except Exception as error:  # jinja2, or whatever a template's own raise_exception throws
        raise DataError(f"row at line {row.line}: the chat template refuses it: {error}") from None
    if not spans:
        raise DataError(f"row at line {row.line}: only its last answer could be trained, and that one has weight 0")
    labels = [IGNORED] * len(full)
    for start, end in spans:
        labels[start:end] = full[start:end]
    end_of_turn = full[spans[-1][1] - 1]
    return Encoded(full, labels if assistant_only_loss else list(full), end_of_turn, last_turn_only)


def render(tokenizer: Any, messages: Sequence[Message], *, answer_next: bool = False, tools: Any = None) -> list[int]:
    """Token ids of a conversation; with `answer_next` up to where the assistant's answer begins.

    The text is rendered first and tokenized as a whole, as servers do.
    """
    if not tokenizer.chat_template:
        raise BaseError(f"{tokenizer.name_or_path} has no chat template: choose an instruct model, or its chat version")
    text = tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False, add_generation_prompt=answer_next)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def template_hash(tokenizer: Any) -> str:
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def _span(tokenizer: Any, messages: list[Message], index: int, full: list[int], tools: Any) -> tuple[int, int]:
    """[start, end) of the trained tokens of the answer at `index`."""
    prompt = render(tokenizer, messages[:index], answer_next=True, tools=tools)
    last = index == len(messages) - 1
    upto = full if last else render(tokenizer, messages[: index + 1], tools=tools)
    if full[: len(upto)] != upto or upto[: len(prompt)] != prompt:
        raise _NotNestedError
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    end = next((at for at in range(len(upto), len(prompt), -1) if upto[at - 1] in special), None)
    if end is None:
        raise BaseError(
            f"{tokenizer.name_or_path}: its chat template ends the assistant's turn with no special token, "
            "so the model would never learn to stop"
        )
    return len(prompt), end


def _for_template(message: Message) -> Message:
    """The message as servers hand it to a template: text in one piece, arguments of calls as objects, no weight."""
    shown = {key: value for key, value in message.items() if key != "weight"}
    shown["content"] = text_of(message)
    if message["role"] == "developer":
        shown["role"] = "system"
    if "tool_calls" in message:
        shown["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in message["tool_calls"]
        ]
    return shown
