"""Any chat template → token ids and loss mask, by rendering prefixes of the conversation.

For an answer at index i three renderings are compared as text:

    prompt   messages[:i] with the generation prompt: exactly what a server feeds the model before it answers
    upto     messages[:i+1]
    full     the whole conversation

Where upto begins with prompt, and full with upto as far as its end-of-turn token, the trained tokens are those from
the end of prompt to that token, it included. No template is known by name and none is edited, so training equals
serving by construction. A template that rewrites earlier turns (one that strips old thinking, say) breaks the nesting;
such a row is trained on its last turn alone, where nothing comes after and the comparison holds again.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
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


def encode_row(tokenizer: Any, row: Row, *, assistant_only_loss: bool = True) -> Encoded:
    """Ids and labels of one conversation; DataError names the row that the template cannot render."""
    messages = [_for_template(message) for message in row.messages]
    answers = [index for index, message in enumerate(row.messages) if is_trained(message)]
    try:
        full = _text(tokenizer, messages, tools=row.tools)
        spans = [_span(tokenizer, messages, index, full, row.tools) for index in answers]
        last_turn_only = None in spans
        if last_turn_only:
            spans = spans[-1:] if answers[-1] == len(messages) - 1 else [None]
    except BaseError:
        raise
    except Exception as error:  # jinja2, or whatever a template's own raise_exception throws
        raise DataError(f"row at line {row.line}: the chat template refuses it: {error}") from None
    if None in spans:
        raise DataError(
            f"row at line {row.line}: the chat template renders its prompt differently once the last answer follows, "
            "so training could not equal serving"
        )
    cuts = [cut for span in spans if span for cut in span]
    ids, at = _tokenize(tokenizer, full, cuts, row)
    labels = [IGNORED] * len(ids)
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        labels[at[start] : at[end]] = ids[at[start] : at[end]]
    return Encoded(ids, labels if assistant_only_loss else list(ids), ids[at[cuts[-1]] - 1], last_turn_only)


def render(tokenizer: Any, messages: Sequence[Message], *, tools: Any = None) -> list[int]:
    """Token ids of the prompt to the next answer, tokenized as a whole, as servers do."""
    return _ids(tokenizer, _text(tokenizer, messages, answer_next=True, tools=tools))


def template_hash(tokenizer: Any) -> str:
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def _text(tokenizer: Any, messages: Sequence[Message], *, answer_next: bool = False, tools: Any = None) -> str:
    """The conversation in the template; with `answer_next` up to where the assistant's answer begins."""
    if not tokenizer.chat_template:
        raise BaseError(f"{tokenizer.name_or_path} has no chat template: choose an instruct model, or its chat version")
    text: str = tokenizer.apply_chat_template(
        list(messages), tools=tools, tokenize=False, add_generation_prompt=answer_next
    )
    return text


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _span(tokenizer: Any, messages: list[Message], index: int, full: str, tools: Any) -> tuple[int, int] | None:
    """[start, end) of the answer at `index` and its end of turn in the characters of `full`.

    None where the renderings do not nest.
    """
    prompt = _text(tokenizer, messages[:index], answer_next=True, tools=tools)
    upto = full if index == len(messages) - 1 else _text(tokenizer, messages[: index + 1], tools=tools)
    if not upto.startswith(prompt):
        return None
    end = len(prompt) + _end_of_turn(tokenizer, upto[len(prompt) :])
    return (len(prompt), end) if full.startswith(upto[:end]) else None


def _end_of_turn(tokenizer: Any, turn: str) -> int:
    """Where in a rendered answer its end-of-turn token ends.

    That is the first special token after the last word, with those that follow it at once. What comes later (a line
    break, the end of the whole conversation) is the template's to write and not the model's.
    """
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    encoded = tokenizer(turn, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    words = [at for at, token in enumerate(ids) if token not in special and turn[slice(*offsets[at])].strip()]
    end = words[-1] + 1 if words else 0
    while end < len(ids) and ids[end] not in special:  # white space that the answer itself ends on
        end += 1
    if end == len(ids):
        raise BaseError(
            f"{tokenizer.name_or_path}: its chat template ends the assistant's turn with no special token, "
            "so the model would never learn to stop"
        )
    while end < len(ids) and ids[end] in special:
        end += 1
    return int(offsets[end - 1][1])


def _tokenize(tokenizer: Any, text: str, cuts: Sequence[int], row: Row) -> tuple[list[int], dict[int, int]]:
    """Ids of the text, and for every cut between two characters the index of the token that begins there."""
    ids = _ids(tokenizer, text)
    heads = {cut: _ids(tokenizer, text[:cut]) for cut in cuts if cut < len(text)} | {len(text): ids}
    if all(ids[: len(head)] == head for head in heads.values()):
        return ids, {cut: len(head) for cut, head in heads.items()}
    # A token lies across a cut, as where an answer begins with a line break. The model gets the prompt's tokens first
    # and can only answer after them, so the pieces are tokenized apart.
    pieces = [_ids(tokenizer, text[a:b]) for a, b in pairwise([0, *heads])]
    apart = [token for piece in pieces for token in piece]
    if tokenizer.decode(apart) != tokenizer.decode(ids):
        raise DataError(f"row at line {row.line}: an answer cannot be told from its prompt in tokens: trim its spaces")
    return apart, dict(zip(heads, accumulate(map(len, pieces)), strict=True))


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
