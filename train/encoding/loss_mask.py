"""Any chat template → token ids and loss mask, so that training equals serving.

Trained are the answers of a conversation, each after the very tokens that a server feeds the model before it, to its
end-of-turn token. No template is known by name and none is edited: the conversation is rendered and tokenized once, and
the prompts, rendered too, say where its answers lie (`one_pass`). Where that cannot be told without doubt, prefixes of
the conversation are tokenized and compared (`prefixes`). A template that rewrites earlier turns once others follow
trains the last answer alone. What a template leaves out is a named error.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from train.chats.rows import Message, Row, trained_answers
from train.core.errors import BaseError, DataError, GovorError
from train.encoding import one_pass, prefixes
from train.encoding.answers import Span
from train.encoding.chat_template import open_conversation
from train.encoding.special_tokens import require_none

IGNORE_INDEX = -100  # torch's cross entropy skips labels of this value
BATCH = 500_000
"""Characters that are tokenized in one call."""


class Encoded(NamedTuple):
    """A row as the model sees it."""

    input_ids: list[int]
    labels: list[int]
    """Equal to input_ids where trained, -100 elsewhere; same length."""
    answers: list[Span]
    """[start, end) in input_ids of every trained answer, its end-of-turn token included."""
    last_turn_only: bool
    """Whether the template rewrites earlier turns, so that only the last one is trained."""
    dated: bool
    """Whether the template writes today's date into the row."""

    @property
    def end_of_turn(self) -> int:
        """The token that ends the assistant's turn."""
        return self.input_ids[self.answers[-1][1] - 1]


def encode_row(
    tokenizer: Any,
    row: Row,
    *,
    assistant_only_loss: bool = True,
    stop: Collection[int] = (),
    today: datetime | None = None,
) -> Encoded:
    """Ids and labels of one conversation; DataError names a row that the template cannot render.

    `stop`: ids at which the base stops besides the tokenizer's eos (eos_token_id in its generation_config.json). They
    decide where a template ends an answer only by what opens the next turn.
    `today`: the date that the template is told; None: now.
    """
    (encoded,) = encode_each(tokenizer, [row], assistant_only_loss=assistant_only_loss, stop=stop, today=today)
    return encoded


def encode_each(
    tokenizer: Any,
    rows: Iterable[Row],
    *,
    assistant_only_loss: bool = True,
    stop: Collection[int] = (),
    today: datetime | None = None,
) -> Iterator[Encoded]:
    """`encode_row` of every row, on all cores: many rows are tokenized in one call."""
    for batch in _batches(tokenizer, rows, stop, today):
        texts = [rendered.whole for _, rendered in batch if rendered]
        encodings = iter(one_pass.tokenize(tokenizer, texts))
        for row, rendered in batch:
            encoding = next(encodings) if rendered else None
            spans = one_pass.find_answers(rendered, encoding) if rendered and encoding else None
            if rendered and spans:
                rendered.chat.require_all(rendered.answers[-1], rendered.prompts[-1])
                dated = rendered.dated
            else:
                spans, dated = _compare_prefixes(tokenizer, row, stop, today)
            _require_one_bos(tokenizer, spans.ids)
            labels = labels_of(spans.ids, spans.answers, assistant_only_loss=assistant_only_loss)
            yield Encoded(spans.ids, labels, spans.answers, spans.last_turn_only, dated)


Batch = list[tuple[Row, one_pass.Rendered | None]]


def _batches(tokenizer: Any, rows: Iterable[Row], stop: Collection[int], today: datetime | None) -> Iterator[Batch]:
    """The rows as text, None where one cannot be rendered, so many at a time as are tokenized in one call."""
    batch: Batch = []
    characters = 0
    for row in rows:
        try:
            rendered = _render_row(tokenizer, row, stop, today)
            characters += len(rendered.whole)
        except GovorError:  # in the row's turn, after those before it
            rendered = None
        batch.append((row, rendered))
        if characters >= BATCH or rendered is None:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _render_row(tokenizer: Any, row: Row, stop: Collection[int], today: datetime | None) -> one_pass.Rendered:
    answers, name = _answers(row), _name(row)
    with open_conversation(tokenizer, row.messages, row.tools, name, stop=stop, today=today) as (chat, clock):
        return one_pass.render_whole(chat, answers)._replace(dated=clock.was_read)


def _compare_prefixes(
    tokenizer: Any, row: Row, stop: Collection[int], today: datetime | None
) -> tuple[one_pass.Spans, bool]:
    """(ids and answers of the row, whether the template writes today's date), by prefixes.py."""
    answers, name = _answers(row), _name(row)
    with open_conversation(tokenizer, row.messages, row.tools, name, stop=stop, today=today) as (chat, clock):
        spans = prefixes.find_answers(chat, answers)
        chat.require_all(answers[-1], chat.prompt(answers[-1]))
        return spans, clock.was_read


def _answers(row: Row) -> list[int]:
    """Indices of the row's trained answers; DataError where there is none."""
    answers = trained_answers(row.messages)
    if not answers:
        raise DataError(f"{_name(row)}: every answer has weight 0, there is nothing to train on")
    return answers


def _name(row: Row) -> str:
    return f"row at line {row.line}"


def _require_one_bos(tokenizer: Any, ids: list[int]) -> None:
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise BaseError(
            f"{tokenizer.name_or_path}: its chat template writes {tokenizer.bos_token} twice: take one out of it"
        )


def labels_of(ids: list[int], answers: list[Span], *, assistant_only_loss: bool) -> list[int]:
    """The ids where they are trained, `IGNORE_INDEX` elsewhere."""
    labels = [IGNORE_INDEX] * len(ids)
    for start, end in answers if assistant_only_loss else [(0, len(ids))]:
        labels[start:end] = ids[start:end]
    return labels


def render(
    tokenizer: Any, messages: Collection[Message], *, tools: Any = None, today: datetime | None = None
) -> list[int]:
    """Token ids of the prompt to the next answer, tokenized as a whole, as servers do.

    DataError where a message holds a special token of the base as text, or the template refuses the conversation.
    """
    require_none(tokenizer, list(messages), tools, "conversation")
    with open_conversation(tokenizer, messages, tools, "conversation", today=today) as (chat, _):
        prompt = chat.prompt(len(messages))
        chat.require_all(len(messages), prompt)
        return chat.ids([prompt])[0]


def template_hash(tokenizer: Any) -> str:
    """sha256 of the tokenizer's chat template, in hex."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
