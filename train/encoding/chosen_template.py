"""The base's tokenizer with the chat template that `model.chat_template` names, whose tokens the base must have."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.chats.message_form import ANSWER, CALLING, QUESTION, TOOLS
from train.chats.rows import Message, Row
from train.core.config import Model
from train.core.errors import BaseError, DataError
from train.encoding.chat_template import open_conversation
from train.encoding.loss_mask import encode_row
from train.models.base import chosen_template, stop_ids
from train.models.load import load_tokenizer

SPECIAL = re.compile(r"<\|[^\s|<>{}'\"]+\|?>|<[^\s|<>{}'\"/]+\|>|<｜[^\s<>{}'\"]+｜>|<(?:start|end)_of_\w+>|</?s>")
"""What can only be a special token: <|…|>, <|x>, <x|>, <｜…｜>, <end_of_turn>, </s>. Others may be meant as text."""
SYSTEM: Message = {"role": "system", "content": "probe-system"}
PLAIN: Message = {"role": "assistant", "content": "probe-answer"}


def load_base_tokenizer(model: Model, base: Path) -> Any:
    """The tokenizer of a base's folder, with the chosen template if there is one.

    BaseError where the base lacks a special token that the template writes for dialogues or calls of tools, or where
    it ends an answer with none.
    """
    tokenizer = load_tokenizer(base, trust_remote_code=model.trust_remote_code)
    chosen = chosen_template(model)
    if chosen is not None:
        tokenizer.chat_template = chosen
        name = f"model.chat_template={model.chat_template}"
        _require_special_tokens(tokenizer, name)
        _require_end_of_turn(tokenizer, stop_ids(base), name)
    return tokenizer


def _require_special_tokens(tokenizer: Any, name: str) -> None:
    written = (token for text in _renderings(tokenizer, name) for token in SPECIAL.findall(text))
    missing = [token for token in dict.fromkeys(written) if len(tokenizer.tokenize(token)) != 1]
    if missing:
        raise BaseError(
            f"{name} writes {', '.join(missing)}, which {tokenizer.name_or_path} has no token for: choose a template "
            "whose special tokens the base was trained with"
        )


def _renderings(tokenizer: Any, name: str) -> Iterator[str]:
    """Conversations of our own in the template; none of a kind that it refuses: the rows say why."""
    for messages, tools in (
        ([QUESTION, ANSWER], None),
        ([SYSTEM, QUESTION, PLAIN], None),
        ([QUESTION, CALLING], TOOLS),
    ):
        with open_conversation(tokenizer, messages, tools, name) as (chat, _):
            try:
                yield chat.text(chat.messages, add_generation_prompt=True)
            except DataError:
                continue


def _require_end_of_turn(tokenizer: Any, stop: frozenset[int], name: str) -> None:
    try:
        encode_row(tokenizer, Row(1, [QUESTION, PLAIN]), stop=stop)
    except BaseError:
        with open_conversation(tokenizer, [QUESTION, PLAIN], None, name) as (chat, _):
            end = chat.text(chat.messages).rpartition("probe-answer")[2]
        raise BaseError(
            f"{name} ends an answer with {end!r}, in which {tokenizer.name_or_path} has no special token: the model "
            "would never learn to stop; choose a template whose end of turn the base has"
        ) from None
    except DataError:  # whatever it asks of a dialogue; the rows say why
        pass
