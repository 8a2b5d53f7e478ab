"""Ids and answers of a row that is rendered and tokenized once; None where that cannot be told without doubt.

Prompts and turns are rendered as text, which costs a twentieth of tokenizing them, and lie in the whole text at known
characters. That a prompt's ids are also the first ids of the whole is proved without tokenizing it. Tokens that were
added to a vocabulary part a text before anything else looks at it, and each part is tokenized for itself. So the ids of
two texts agree as far as the last added token that both have; what follows it in the prompt, such as the role's name
and a line break, is short, the same in every row, and tokenized once.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from train.chats.message_form import common_prefix
from train.chats.rows import text_of
from train.encoding.answers import Span, is_word, require_answer, said_length
from train.encoding.chat_template import Conversation


class Rendered(NamedTuple):
    """A conversation as text, and what of it is the prompt to each trained answer."""

    chat: Conversation
    answers: list[int]
    """Indices of the trained answers among the messages."""
    prompts: list[str]
    """What a server feeds the model before each answer."""
    turns: list[str]
    """The conversation with each answer as its last message."""
    whole: str
    dated: bool
    """Whether the template writes today's date."""


class Spans(NamedTuple):
    """The ids of a conversation and where its answers lie in them."""

    ids: list[int]
    answers: list[Span]
    last_turn_only: bool
    """Whether the template rewrites earlier answers, so that the last one alone is among `answers`."""


def render_whole(chat: Conversation, answers: list[int]) -> Rendered:
    """The conversation and its prompts as text; raises what `Conversation.text` raises."""
    prompts, turns = [chat.prompt(index) for index in answers], [chat.upto(index) for index in answers]
    last = len(chat.messages) - 1
    return Rendered(chat, answers, prompts, turns, turns[-1] if answers[-1] == last else chat.upto(last), dated=False)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Sequence[Any]:
    """A `tokenizers.Encoding` for each text, made on all cores; None for each where the tokenizer is written in Python.

    With TOKENIZERS_PARALLELISM=false in the environment one core is used.
    """
    if not (texts and tokenizer.is_fast):
        return [None] * len(texts)
    asked = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    return list(tokenizer(list(texts), verbose=False, **asked).encodings)


def find_answers(rendered: Rendered, encoding: Any) -> Spans | None:
    """Where the answers lie in the ids of the whole; None where prefixes must be tokenized to tell (see prefixes.py).

    DataError where the template leaves out part of an answer.
    """
    chat, whole = rendered.chat, rendered.whole
    ids: list[int] = encoding.ids
    spans: list[Span] = []
    for index, prompt, upto in zip(rendered.answers, rendered.prompts, rendered.turns, strict=True):
        if upto == prompt or not upto.startswith(prompt):
            return None
        require_answer(chat, index, prompt, upto[len(prompt) :])
        agreed = len(upto) if whole.startswith(upto) else common_prefix(whole, upto)
        if _is_rewritten(chat, index, prompt, upto, agreed):
            return _last_answer(rendered, encoding, ids)
        if agreed < len(prompt):
            return None
        span = _span(chat, index, encoding, ids, prompt, upto, agreed)
        if span is None:
            return None
        spans.append(span)
    return Spans(ids, spans, last_turn_only=False)


def _is_rewritten(chat: Conversation, index: int, prompt: str, upto: str, agreed: int) -> bool:
    """Whether the conversation, which agrees with `upto` for so many characters, has another answer than that."""
    text = text_of(chat.messages[index]).strip()
    at = upto.find(text, len(prompt))
    return bool(text) and at >= 0 and agreed < at + len(text)


def _last_answer(rendered: Rendered, encoding: Any, ids: list[int]) -> Spans | None:
    """The last answer alone of a conversation that ends with it."""
    chat, index, prompt, whole = rendered.chat, rendered.answers[-1], rendered.prompts[-1], rendered.whole
    if whole != rendered.turns[-1] or whole == prompt or not whole.startswith(prompt):
        return None
    require_answer(chat, index, prompt, whole[len(prompt) :])
    span = _span(chat, index, encoding, ids, prompt, whole, len(whole))
    return span and Spans(ids, [span], last_turn_only=True)


def _span(
    chat: Conversation, index: int, encoding: Any, ids: list[int], prompt: str, upto: str, agreed: int
) -> Span | None:
    """[start, end) in `ids` of the answer behind a prompt; the whole agrees with `upto` for so many characters."""
    start = encoding.char_to_token(len(prompt))
    if start is None or encoding.token_to_chars(start)[0] != len(prompt):
        return None
    if not _is_prefix(chat.tokenizer, encoding, ids, start, prompt):
        return None
    end, rest = len(ids), ""
    if encoding.token_to_chars(end - 1)[1] > agreed:
        end = encoding.char_to_token(agreed)
        if end is None:
            return None
        rest = upto[encoding.token_to_chars(end)[0] :]  # what the template writes where the conversation ends there
        if any(is_word(chat, token) for token in _short(chat.tokenizer, rest)):
            return None
    length = said_length(chat, index, ids[start:end])
    certain = not rest or start + length < end or ids[start + length - 1] in chat.stop
    return (start, start + length) if length and certain else None


def _is_prefix(tokenizer: Any, encoding: Any, ids: list[int], start: int, prompt: str) -> bool:
    """Whether the first `start` ids are those of the prompt, see the module's docstring."""
    added = _added_ids(tokenizer)
    last = next((at for at in range(start - 1, -1, -1) if ids[at] in added), None)
    if last is None:
        return False
    tail = prompt[encoding.token_to_chars(last)[0] :]
    return _short(tokenizer, tail) == tuple(ids[last:start])


def _short(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids of a text that is short and met again in nearly every row."""
    return _remembered(tokenizer, text) if len(text) <= 200 else _remembered.__wrapped__(tokenizer, text)


@lru_cache(maxsize=1024)
def _remembered(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@lru_cache(maxsize=8)
def _added_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that were added to the vocabulary, special or not."""
    return frozenset(tokenizer.added_tokens_decoder)
