"""An answer in its rendered turn: whether all of it is there, and which tokens of the turn the model says."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from train.chats.rows import Message, text_of
from train.core.errors import BaseError, DataError
from train.encoding.chat_template import Conversation

Span = tuple[int, int]
BLOCK_START = re.compile(r"<(\|?)(\w+)>")
"""The beginning of a block in an answer: <think>, or <|channel> in Gemma's manner."""


def require_answer(chat: Conversation, index: int, prompt: str, turn: str) -> None:
    """DataError where what follows the prompt is not the row's answer."""
    message = chat.messages[index]
    content, calls = text_of(message), message.get("tool_calls", ())
    texts = [content, message.get("reasoning_content", "")]
    whole = all(text.strip() in turn for text in texts) or _words(*texts) <= _words(prompt[-20:], turn)
    if not whole or not all(call["function"]["name"] in turn for call in calls):
        what = "a call" if calls else "part of the text"
        raise DataError(
            f"{chat.name}: the chat template leaves out {what} of message {index + 1}, an answer: "
            "take it out of the row, or choose a base with another template"
        )
    block = BLOCK_START.match(content.lstrip())
    if block and turn.count(block[0]) + prompt.rstrip().endswith((block[0], closing(block))) > content.count(block[0]):
        raise DataError(
            f"{chat.name}: the chat template writes another {block[0]} before that of message {index + 1}: "
            "take the thought out of the row, or choose a base with another template"
        )


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}


def said_length(chat: Conversation, index: int, turn: Sequence[int]) -> int:
    """How many tokens of a rendered turn the model says: all to its end of turn; 0 where the turn has no such token.

    The end of turn is the first special token after the last word, with those that follow it at once as far as the
    first that the base stops at. What comes later (a line break, the end of the whole conversation) is the template's
    to write.
    """
    start = next((at + 1 for at in reversed(range(len(turn))) if is_word(chat, turn[at])), 0)
    start = next((at for at in range(start, len(turn)) if is_special(chat, turn[at])), len(turn))
    if "tool_calls" in chat.messages[index]:  # a call may close with special tokens of its own
        start = next((at for at in range(start, len(turn)) if turn[at] in chat.stop), start)
    if start == len(turn):
        return 0
    end = start + 1
    while end < len(turn) and is_special(chat, turn[end]) and turn[end - 1] not in chat.stop:
        end += 1
    return end


def answer_ids_of(chat: Conversation, index: int, turn: list[int]) -> list[int]:
    """The tokens of a rendered turn that the model says, with the opening of the next turn where that is what ends it.

    BaseError where the base stops at no token after the answer.
    """
    length = said_length(chat, index, turn)
    return turn[:length] if length else [*turn, _opening_of_next(chat, index)]


def _opening_of_next(chat: Conversation, index: int) -> int:
    """The token that opens the turn after the answer at `index`: it ends the answer if the base stops at it."""
    answer, reply = with_text("probe-one", chat.messages[index]), with_text("probe-two", chat.messages[index])
    reply = {"role": "user", "content": reply["content"]}
    if calls := chat.messages[index].get("tool_calls"):
        reply |= {"role": "tool", "tool_call_id": calls[-1]["id"], "name": calls[-1]["function"]["name"]}
    rendered = chat.text([*chat.messages[:index], answer, reply])
    (between,) = chat.ids([rendered[rendered.rfind("probe-one") : rendered.rfind("probe-two")]])
    for token in between:
        if token in chat.stop:
            return token
    raise BaseError(
        f"{chat.tokenizer.name_or_path}: its chat template ends the assistant's turn with no special token, and what "
        "opens the next turn is none that the base stops at (eos_token_id in generation_config.json): "
        "the model would never learn to stop"
    )


def closing(block: re.Match[str]) -> str:
    return f"<{block[2]}|>" if block[1] else f"</{block[2]}>"


def with_text(text: str, message: Message) -> Message:
    """The message with another text, in the same form."""
    return {**message, "content": [{"type": "text", "text": text}] if isinstance(message["content"], list) else text}


def is_word(chat: Conversation, token: int) -> bool:
    """Whether the token stands for more than blanks and is not special."""
    return not is_special(chat, token) and _is_shown(chat.tokenizer, token)


def is_special(chat: Conversation, token: int) -> bool:
    """Whether the base stops at the token, or its tokenizer marks it as special."""
    return token in chat.stop or token in _special_ids(chat.tokenizer)


@lru_cache(maxsize=2**16)
def _is_shown(tokenizer: Any, token: int) -> bool:
    return bool(tokenizer.decode([token]).strip())


@lru_cache(maxsize=8)
def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Special tokens of a tokenizer, which gains none later; the one for unknown text stands for words: it is none."""
    marked = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*marked, *tokenizer.all_special_ids} - {tokenizer.unk_token_id})
