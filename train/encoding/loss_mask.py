"""Any chat template → token ids and loss mask, by rendering prefixes of the conversation.

For an answer at index i three renderings are compared, token by token:

    prompt   messages[:i] with the generation prompt: exactly what a server feeds the model before it answers
    upto     messages[:i+1]
    full     the whole conversation

Where upto begins with prompt, and full with upto as far as its end-of-turn token, the trained tokens are those from
the end of prompt to that token, it included. No template is known by name and none is edited, so training equals
serving by construction. Where the renderings do not nest, the row is trained on its last answer alone: the prompt as
served, then what the model has to say after it (`_continuation`). So it goes with a template that rewrites earlier
turns (strips old thinking, say), moves the system message, or begins an answer otherwise than its generation prompt
does. What cannot be told without doubt is a named error, and so is a message that the template leaves out.
"""

import hashlib
import re
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from train.chats.rows import Message, Row, text_of, trained_answers
from train.core.errors import BaseError, DataError
from train.encoding.chat_template import Conversation, common_prefix, open_conversation

IGNORE_INDEX = -100  # torch's cross entropy skips labels of this value
Span = tuple[int, int]
BLOCK = re.compile(r"<(\|?)(\w+)>")  # the beginning of a block in an answer: <think>, or <|channel> in Gemma's manner


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
    answers = trained_answers(row.messages)
    name = f"row at line {row.line}"
    if not answers:
        raise DataError(f"{name}: every answer has weight 0, there is nothing to train on")
    with open_conversation(tokenizer, row.messages, row.tools, name, stop=stop, today=today) as (chat, clock):
        nested = _all_answers(chat, answers)
        ids, spans = nested or _last_answer(chat, answers[-1])
        chat.require_all(answers[-1])
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise BaseError(
            f"{tokenizer.name_or_path}: its chat template writes {tokenizer.bos_token} twice: take one out of it"
        )
    labels = labels_of(ids, spans, assistant_only_loss=assistant_only_loss)
    return Encoded(ids, labels, spans, last_turn_only=not nested and len(answers) > 1, dated=clock.was_read)


def labels_of(ids: list[int], answers: list[Span], *, assistant_only_loss: bool) -> list[int]:
    """The ids where they are trained, `IGNORE_INDEX` elsewhere."""
    labels = [IGNORE_INDEX] * len(ids)
    for start, end in answers if assistant_only_loss else [(0, len(ids))]:
        labels[start:end] = ids[start:end]
    return labels


def render(
    tokenizer: Any, messages: Collection[Message], *, tools: Any = None, today: datetime | None = None
) -> list[int]:
    """Token ids of the prompt to the next answer, tokenized as a whole, as servers do."""
    with open_conversation(tokenizer, messages, tools, "conversation", today=today) as (chat, _):
        chat.require_all(len(messages))
        return chat.ids([chat.prompt(len(messages))])[0]


def template_hash(tokenizer: Any) -> str:
    """sha256 of the tokenizer's chat template, in hex."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def _all_answers(
    chat: Conversation, answers: list[int], *, incremental: bool = True
) -> tuple[list[int], list[Span]] | None:
    """Ids of the whole conversation and [start, end) of every answer in them; None where renderings do not nest.

    `incremental`: tokenize anew only what stands behind the last end of turn, a special token that parts the text.
    """
    known, done, at = "", list[int](), 0  # done: the ids of known[:at]
    placed: list[tuple[int, list[int], list[int]]] = []  # len(done), ids from there to the answer, ids of the answer
    prompt, upto, before, after, straddling = "", "", list[int](), list[int](), False
    for index in answers:
        prompt, upto = chat.prompt(index), chat.upto(index)
        if upto == prompt or not upto.startswith(prompt) or prompt[:at] != known[:at]:
            return None
        turn = upto[len(prompt) :]
        _require_answer(chat, index, prompt, turn)
        before, after = chat.ids([prompt[at:], upto[at:]])
        straddling = after[: len(before)] != before  # as where an answer begins with a line break
        if straddling and index != answers[-1]:
            return None
        answer_ids = _answer_ids(chat, index, _turn_ids(chat, prompt, turn) if straddling else after[len(before) :])
        placed.append((len(done), before, answer_ids))
        end = _end_of(chat.tokenizer, turn, answer_ids)
        if straddling or len(before) + len(answer_ids) > len(after):
            after = before + answer_ids
        if incremental and end and index != answers[-1]:
            known, done, at = upto, done + before + answer_ids, len(prompt) + end
    if at and chat.ids([prompt]) != [done + before]:
        return _all_answers(chat, answers, incremental=False)
    last = len(chat.messages) - 1
    if answers[-1] != last and not straddling:
        whole = chat.upto(last)
        after = chat.ids([whole[at:]])[0] if whole[:at] == known[:at] else []
    full = done + after
    if any(full[start : start + len(ids + answer_ids)] != ids + answer_ids for start, ids, answer_ids in placed):
        return None
    return full, [(start + len(ids), start + len(ids + answer_ids)) for start, ids, answer_ids in placed]


def _end_of(tokenizer: Any, turn: str, answer_ids: list[int]) -> int:
    """The character of the rendered turn at which the tokens of `answer_ids` end; 0 where that cannot be told."""
    token = str(tokenizer.convert_ids_to_tokens(answer_ids[-1]))
    parts = turn.split(token, answer_ids.count(answer_ids[-1]))
    return len(turn) - len(parts[-1]) if len(parts) > answer_ids.count(answer_ids[-1]) else 0


def _last_answer(chat: Conversation, index: int) -> tuple[list[int], list[Span]]:
    """Ids of the answer at `index` after its prompt as served, and its [start, end)."""
    prompt = chat.prompt(index)
    turn = _continuation(chat, index, prompt, chat.upto(index))
    _require_answer(chat, index, prompt, turn)
    (ids,) = chat.ids([prompt])
    rendered = _turn_ids(chat, prompt, turn)
    answer_ids = _answer_ids(chat, index, rendered)
    return ids + max(answer_ids, rendered, key=len), [(len(ids), len(ids) + len(answer_ids))]


def _turn_ids(chat: Conversation, prompt: str, turn: str) -> list[int]:
    """Ids of the turn after its prompt. Where a token lies across, as before an answer that begins with a line break,
    the turn is tokenized for itself: the model gets the prompt's tokens first and can only answer after them.
    """
    before, whole, after = chat.ids([prompt, prompt + turn, turn])
    if whole[: len(before)] == before:
        return whole[len(before) :]
    if chat.tokenizer.decode(before + after) != chat.tokenizer.decode(whole):
        raise DataError(f"{chat.name}: an answer cannot be told from its prompt in tokens: trim its spaces")
    return after


def _continuation(chat: Conversation, index: int, prompt: str, upto: str) -> str:
    """What follows the prompt as served: the answer as rendered, also where the rendering gives the prompt otherwise.

    Both are compared from the message before the answer on. Where the prompt opens a block that the answer does not
    have (`<think>` for one without a thought), the model closes it first.
    """
    answer = chat.messages[index]
    content = text_of(answer)
    if upto == prompt:  # the template leaves the last answer to the model altogether: it ends where the base stops
        return content + (chat.tokenizer.eos_token or "")
    if upto.startswith(prompt):
        return upto[len(prompt) :]
    before = [*chat.messages[: max(0, index - 1)], *(_with_text("probe-before", m) for m in chat.messages[:index][-1:])]
    served = chat.text(before, add_generation_prompt=True).rpartition("probe-before")[2]
    framed = chat.text([*before, _with_text("probe-answer", answer)]).rpartition("probe-before")[2]
    head, present, tail = framed.partition("probe-answer")
    rendered = chat.text([*before, answer]).rpartition("probe-before")[2]
    if present and prompt.endswith(served) and rendered.startswith(head) and rendered.endswith(tail):
        both = common_prefix(served, head)
        left, more = served[both:], head[both:]
        reply = rendered[len(head) :]
        if not left.strip():
            return more + reply
        if not more:
            if content.lstrip().startswith(left.strip()):  # the answer's own thought, which the template drops
                thought = content.lstrip().removeprefix(left.strip())
                return thought.removeprefix(left[len(left.rstrip()) :]) + tail
            opening = BLOCK.search(left)
            if opening and _closing(opening) not in left:
                return f"\n{_closing(opening)}\n\n{reply}"
            return reply
    raise DataError(
        f"{chat.name}: the chat template renders its prompt differently once the last answer follows, "
        "so training could not equal serving: take a thought out of the answer, or choose a base with another template"
    )


def _closing(block: re.Match[str]) -> str:
    return f"<{block[2]}|>" if block[1] else f"</{block[2]}>"


def _with_text(text: str, message: Message) -> Message:
    """The message with another text, in the same form."""
    return {**message, "content": [{"type": "text", "text": text}] if isinstance(message["content"], list) else text}


def _require_answer(chat: Conversation, index: int, prompt: str, turn: str) -> None:
    """DataError where what follows the prompt is not the row's answer."""
    message = chat.messages[index]
    content, calls = text_of(message), message.get("tool_calls", ())
    words = {*re.findall(r"\w+", content), *re.findall(r"\w+", message.get("reasoning_content", ""))}
    rendered_words = {*re.findall(r"\w+", f"{prompt[-20:]} {turn}")}
    if not words <= rendered_words or not all(call["function"]["name"] in turn for call in calls):
        what = "a call" if calls else "part of the text"
        raise DataError(
            f"{chat.name}: the chat template leaves out {what} of message {index + 1}, an answer: "
            "take it out of the row, or choose a base with another template"
        )
    block = BLOCK.match(content.lstrip())
    if block and turn.count(block[0]) + prompt.rstrip().endswith((block[0], _closing(block))) > content.count(block[0]):
        raise DataError(
            f"{chat.name}: the chat template writes another {block[0]} before that of message {index + 1}: "
            "take the thought out of the row, or choose a base with another template"
        )


def _answer_ids(chat: Conversation, index: int, turn: list[int]) -> list[int]:
    """The tokens of a rendered turn that the model says: all to its end-of-turn token.

    That is the first special token after the last word, with those that follow it at once as far as the first that the
    base stops at. What comes later (a line break, the end of the whole conversation) is the template's to write.
    """
    special = chat.stop | _marked_special(chat.tokenizer, len(chat.tokenizer))

    def is_word(token: int) -> bool:
        return token not in special and bool(chat.tokenizer.decode([token]).strip())

    start = next((at + 1 for at in reversed(range(len(turn))) if is_word(turn[at])), 0)
    start = next((at for at in range(start, len(turn)) if turn[at] in special), len(turn))
    if "tool_calls" in chat.messages[index]:  # a call may close with special tokens of its own
        start = next((at for at in range(start, len(turn)) if turn[at] in chat.stop), start)
    if start == len(turn):
        return [*turn, _opening_of_next(chat, index)]
    end = start + 1
    while end < len(turn) and turn[end] in special and turn[end - 1] not in chat.stop:
        end += 1
    return turn[:end]


def _opening_of_next(chat: Conversation, index: int) -> int:
    """The token that opens the turn after the answer at `index`: it ends the answer if the base stops at it."""
    answer, reply = _with_text("probe-one", chat.messages[index]), _with_text("probe-two", chat.messages[index])
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


@lru_cache(maxsize=8)
def _marked_special(tokenizer: Any, length: int) -> frozenset[int]:
    """Special tokens of a tokenizer of that length; the one for unknown text stands for words and is not among them."""
    marked = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*marked, *tokenizer.all_special_ids} - {tokenizer.unk_token_id})
