"""What a file of rows is like, in numbers. Nothing is sent anywhere and no model is asked.

A share is between 0 and 1; None stands where there is nothing to measure. System messages are left out, except that
personal data is looked for in them too.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from msgspec import Struct

from train.chats.duplicates import near_duplicate_groups
from train.chats.privacy.scrub import find
from train.chats.rows import Message, Row, is_trained, text_of, to_json, to_object
from train.chats.rules import row_problems
from train.chats.topics import Topics, Vocabulary, topics_and_vocabulary
from train.core.errors import DataError

NEAR = 0.6  # Jaccard similarity of two conversations from which they are near-duplicates
MIN_ANSWER, MAX_ANSWER = 40, 2000  # characters
MIN_LETTERS = 0.5  # of the characters that are no spaces
BINS = 40

CRITERIA = {
    "invalid": "`govor validate` finds no error in it",
    "personal_data": "no personal data is left in it, apart from names, which are not looked for",
    "near_duplicate": f"no earlier row is nearly the same (Jaccard similarity from {NEAR}, also through others)",
    "answer_length": f"it has trained answers in words, each of {MIN_ANSWER} to {MAX_ANSWER:,} characters",
    "not_letters": f"at least {MIN_LETTERS:.0%} of each trained answer, spaces aside, is letters",
    "echo": "no trained answer merely repeats the user's message before it, or a part of it",
}
"""What a good row fulfils, by the name under which the rows that fail it are counted."""
GOOD_ROW = "A row is good when " + "; ".join(CRITERIA.values()) + "."

_QUESTION = re.compile(r"[?？](?!\w)")  # not that of an address: https://site/?page=2
_EMOJI = re.compile("[\U0001f000-\U0001faff\u231a\u231b\u23e9-\u23fa\u2600-\u27bf\u2b50\u2b55]\ufe0f?|\u200d")
_AFTER_SENTENCE = " \t\r\n.!…)(»”“\"'’]*_~"
_EYES = re.compile(r"[:;=]['’]?-?[()]")
_LIST_MARKER = re.compile(r"^[ \t]*(?:\d{1,3}|\w)\)", re.MULTILINE)


class Spread(Struct, frozen=True):
    """How a number is distributed; percentiles are interpolated."""

    count: int
    mean: float
    p5: float
    median: float
    p95: float
    max: int
    counts: list[int]
    """How many lie in each bin of the histogram."""
    edges: list[float]
    """The bins' borders, one more than bins."""
    beyond: int
    """How many lie above the last border."""


class Share(Struct, frozen=True):
    rows: int
    share: float
    """Of all rows; of the rows counted by channel where it is a channel's."""


class Side(Struct, frozen=True):
    """One role's messages."""

    messages: int
    without_text: int
    """Tool calls alone, or nothing; left out below."""
    characters: Spread | None
    question_share: float | None
    """Messages that hold a question."""
    closing_question_share: float | None
    """Messages that end with one; emoji, brackets and quotation marks after it do not matter."""
    emoji_share: float | None
    bracket_smile_share: float | None
    """Messages with `)`, `((` or `:)` that closes or opens no bracket."""


class Duplicates(Struct, frozen=True):
    exact_rows: int
    """Rows that repeat an earlier one letter for letter."""
    near_rows: int
    """Rows that nearly repeat an earlier one, exact ones among them."""
    near_groups: int
    threshold: float
    """Jaccard similarity."""


class PersonalData(Struct, frozen=True):
    rows: int
    found: dict[str, int]
    """Kind → how many; names are not looked for."""


class Tokens(Struct, frozen=True):
    rows: Spread
    """Tokens a row, as the template writes it."""
    max_length: int | None
    rows_over_max_length: int | None


class Quality(Struct, frozen=True):
    definition: str
    good: Share
    failed: dict[str, int]
    """Criterion → rows that fail it; a row may fail several."""


class Statistics(Struct, frozen=True):
    rows: int
    messages: int
    """Without system messages."""
    turns: Spread
    """Assistant's messages a row."""
    user: Side
    assistant: Side
    tokens: Tokens | None
    """None where no base was given to count them with."""
    channels: dict[str, Share] | None
    topics: dict[str, Share]
    """A row may have several."""
    vocabulary: Vocabulary
    duplicates: Duplicates
    personal_data: PersonalData
    quality: Quality


def statistics(
    rows: Sequence[Row],
    *,
    topics: Topics,
    count_tokens: Callable[[Row], int] | None = None,
    max_length: int | None = None,
    channels: Mapping[str, int] | None = None,
) -> Statistics:
    """Everything about the rows, in time that grows with their length; `channels` are rows by channel."""
    if not rows:
        raise DataError("no rows to measure")
    talk = [[message for message in row.messages if message["role"] not in ("system", "developer")] for row in rows]
    groups = near_duplicate_groups(["\n".join(map(_content, messages)) for messages in talk], NEAR)
    repeats = {index for group in groups for index in sorted(group)[1:]}
    personal = [_personal_data(row) for row in rows]
    by_topic, vocabulary = topics_and_vocabulary(talk, topics)
    return Statistics(
        rows=len(rows),
        messages=sum(map(len, talk)),
        turns=_spread([sum(message["role"] == "assistant" for message in messages) for messages in talk]),
        user=_side(chain.from_iterable(talk), "user"),
        assistant=_side(chain.from_iterable(talk), "assistant"),
        tokens=_tokens([count_tokens(row) for row in rows], max_length) if count_tokens else None,
        channels=None if channels is None else _shares(channels, sum(channels.values())),
        topics=_shares(by_topic, len(rows)),
        vocabulary=vocabulary,
        duplicates=Duplicates(len(rows) - len({_fingerprint(row) for row in rows}), len(repeats), len(groups), NEAR),
        personal_data=PersonalData(sum(map(bool, personal)), _counted(personal)),
        quality=_quality([_failed(row, bool(personal[at]), at in repeats) for at, row in enumerate(rows)]),
    )


def _content(message: Message) -> str:
    """The message's text and what its tool calls ask for."""
    calls = (f"{call['function']['name']} {call['function']['arguments']}" for call in message.get("tool_calls", ()))
    return "\n".join([text_of(message), *calls])


def _fingerprint(row: Row) -> bytes:
    return hashlib.sha256(to_json(row).encode("utf-8", "surrogatepass")).digest()


def _personal_data(row: Row) -> list[str]:
    """The kind of each finding."""
    return [kind for message in row.messages for kind in _kinds(_content(message))]


@lru_cache(maxsize=16)  # the system message that all rows share
def _kinds(text: str) -> tuple[str, ...]:
    return tuple(found.kind for found in find(text))


def _spread(values: Sequence[int]) -> Spread:
    """Bins hold whole numbers, as few each as make about BINS of them; a long tail is counted, not drawn."""
    import numpy as np

    percentiles: list[float] = np.percentile(values, (5, 50, 95)).tolist()
    p5, median, p95 = percentiles
    low, high = min(values), max(values)
    top = min(high, max(low + 1, int(3 * p95)))
    width = -(-(top - low + 1) // BINS)
    edges = [edge - 0.5 for edge in range(low, top + width + 1, width)]
    counts: list[int] = np.histogram(values, edges)[0].tolist()
    mean = sum(values) / len(values)
    return Spread(len(values), mean, p5, median, p95, high, counts, edges, beyond=len(values) - sum(counts))


def _shares(counts: Mapping[str, int], whole: int) -> dict[str, Share]:
    return {name: Share(count, count / whole if whole else 0.0) for name, count in counts.items()}


def _counted(lists: Iterable[Iterable[str]]) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    return dict(Counter(chain.from_iterable(lists)).most_common())


def _side(messages: Iterable[Message], role: str) -> Side:
    count = 0
    lengths: list[int] = []
    marks: Counter[str] = Counter()
    for text in (text_of(message) for message in messages if message["role"] == role):
        count += 1
        if not text.strip():
            continue
        lengths.append(len(text))
        marks["question"] += _QUESTION.search(text) is not None
        marks["closing"] += _ends_with_question(text)
        marks["emoji"] += _EMOJI.search(text) is not None
        marks["smile"] += _has_bracket_smile(text)
    if not lengths:
        return Side(count, count, None, None, None, None, None)
    shares = (marks[mark] / len(lengths) for mark in ("question", "closing", "emoji", "smile"))
    return Side(count, count - len(lengths), _spread(lengths), *shares)


def _ends_with_question(text: str) -> bool:
    return _EMOJI.sub("", text).rstrip(_AFTER_SENTENCE).endswith(("?", "？"))


def _has_bracket_smile(text: str) -> bool:
    """Brackets that pair with none, as in «привет)», apart from those of a list: `1) …` at the start of a line."""
    if _EYES.search(text):
        return True
    depth = 0
    for bracket in re.findall(r"[()]", _LIST_MARKER.sub("", text)):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            return True
    return depth > 0


def _tokens(lengths: list[int], max_length: int | None) -> Tokens:
    over = None if max_length is None else sum(length > max_length for length in lengths)
    return Tokens(_spread(lengths), max_length, over)


def _failed(row: Row, has_personal_data: bool, repeats: bool) -> list[str]:
    """The criteria that a row does not fulfil."""
    pairs = _trained_answers(row)
    failed = {
        "invalid": any(row_problems(row.line, to_object(row))),
        "personal_data": has_personal_data,
        "near_duplicate": repeats,
        "answer_length": not pairs or any(not MIN_ANSWER <= len(answer) <= MAX_ANSWER for _, answer in pairs),
        "not_letters": any(_letters(answer) < MIN_LETTERS for _, answer in pairs),
        "echo": any(_bare(answer) in question for question, answer in pairs),
    }
    return [criterion for criterion in CRITERIA if failed[criterion]]


def _trained_answers(row: Row) -> list[tuple[str, str]]:
    """(user's message before it, bare; trained answer) for every answer in words."""
    pairs, question = [], ""
    for message in row.messages:
        if message["role"] == "user":
            question = _bare(text_of(message))
        elif is_trained(message) and (answer := text_of(message).strip()):
            pairs.append((question, answer))
    return pairs


def _letters(text: str) -> float:
    """Share of letters among the characters that are no spaces."""
    solid = "".join(text.split())
    return sum(map(str.isalpha, solid)) / len(solid)


def _bare(text: str) -> str:
    """Letters and digits alone, whatever their case."""
    return re.sub(r"[\W_]+", "", text.casefold())


def _quality(failed: Sequence[Sequence[str]]) -> Quality:
    """`failed` are the criteria that each row does not fulfil."""
    good = sum(not criteria for criteria in failed)
    return Quality(GOOD_ROW, Share(good, good / len(failed)), dict.fromkeys(CRITERIA, 0) | _counted(failed))
