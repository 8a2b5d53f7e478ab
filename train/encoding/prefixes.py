"""Ids and answers of a row by comparing renderings of its prefixes, each tokenized: right for any template, and slow.

For an answer at index i three renderings are compared, token by token:

    prompt   messages[:i] with the generation prompt: exactly what a server feeds the model before it answers
    upto     messages[:i+1]
    full     the whole conversation

Where upto begins with prompt, and full with upto as far as its end-of-turn token, the trained tokens are those from
the end of prompt to that token, it included. Where the renderings do not nest, the row is trained on its last answer
alone: the prompt as served, then what the model has to say after it (`_continuation`). So it goes with a template that
rewrites earlier turns (strips old thinking, say), moves the system message, or begins an answer otherwise than its
generation prompt does. What cannot be told without doubt is a named error.
"""

from typing import Any

from train.chats.message_form import common_prefix
from train.chats.rows import text_of
from train.core.errors import DataError
from train.encoding.answers import BLOCK_START, Span, answer_ids_of, closing, require_answer, with_text
from train.encoding.chat_template import Conversation
from train.encoding.one_pass import Spans


def find_answers(chat: Conversation, answers: list[int]) -> Spans:
    """Ids of the conversation and its trained answers; DataError or BaseError where they cannot be told."""
    if nested := _all_answers(chat, answers):
        return Spans(*nested, last_turn_only=False)
    ids, spans = _last_answer(chat, answers[-1])
    return Spans(ids, spans, last_turn_only=len(answers) > 1)


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
        require_answer(chat, index, prompt, turn)
        before, after = chat.ids([prompt[at:], upto[at:]])
        straddling = after[: len(before)] != before  # as where an answer begins with a line break
        if straddling and index != answers[-1]:
            return None
        answer_ids = answer_ids_of(chat, index, _turn_ids(chat, prompt, turn) if straddling else after[len(before) :])
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
    require_answer(chat, index, prompt, turn)
    (ids,) = chat.ids([prompt])
    rendered = _turn_ids(chat, prompt, turn)
    answer_ids = answer_ids_of(chat, index, rendered)
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
    before = [*chat.messages[: max(0, index - 1)], *(with_text("probe-before", m) for m in chat.messages[:index][-1:])]
    served = chat.text(before, add_generation_prompt=True).rpartition("probe-before")[2]
    framed = chat.text([*before, with_text("probe-answer", answer)]).rpartition("probe-before")[2]
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
            opening = BLOCK_START.search(left)
            if opening and closing(opening) not in left:
                return f"\n{closing(opening)}\n\n{reply}"
            return reply
    raise DataError(
        f"{chat.name}: the chat template renders its prompt differently once the last answer follows, "
        "so training could not equal serving: take a thought out of the answer, or choose a base with another template"
    )
