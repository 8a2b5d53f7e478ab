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

from msgspec import Struct, ValidationError, convert

from train.chats.duplicates import near_duplicate_groups
from train.chats.privacy.scrub import find_personal_data
from train.chats.rows import Message, Row, is_trained, row_to_json, row_to_object, text_of
from train.chats.rules import row_problems
from train.chats.topics import Topics, Vocabulary, topics_and_vocabulary
from train.core.errors import DataError, GovorError

BINS = 40


class Good(Struct, frozen=True):
    """What a good row is; every number is for the user to set."""

    min_answer: int = 40
    """Characters that a trained answer has at least."""
    max_answer: int = 2000
    min_letters: float = 0.5
    """Share of letters among the characters of an answer that are no spaces."""
    similar: float = 0.6
    """Jaccard similarity of two conversations from which they are near-duplicates."""

    def criteria(self) -> dict[str, str]:
        """What a good row fulfils, by the name under which the rows that fail it are counted."""
        length = f"each of {self.min_answer} to {self.max_answer:,} characters"
        return {
            "invalid": "`govor validate` finds no error in it",
            "personal_data": "no personal data is left in it, apart from names, which are not looked for",
            "near_duplicate": f"no earlier row is nearly the same (Jaccard similarity from {self.similar}, "
            "also through others)",
            "answer_length": f"it has trained answers in words, {length}",
            "not_letters": f"at least {self.min_letters:.0%} of each trained answer, spaces aside, is letters",
            "echo": "no trained answer merely repeats the user's message before it, or a part of it",
        }


def good_of(settings: Iterable[str]) -> Good:
    """What a good row is by `key=value` settings; GovorError where one is none."""
    values: dict[str, object] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in Good.__struct_fields__:
            raise GovorError(f"--good {setting}: expected {', '.join(Good.__struct_fields__)} = a number")
        values[key] = value
    try:
        good = convert(values, Good, strict=False)
    except ValidationError as error:
        raise GovorError(f"--good {' '.join(f'{key}={value}' for key, value in values.items())}: {error}") from None
    if not (0 <= good.min_letters <= 1 and 0 < good.similar <= 1 and 0 <= good.min_answer <= good.max_answer):
        raise GovorError("--good: shares are between 0 and 1, and min_answer is at most max_answer")
    return good


DEFAULT_GOOD = Good()
CRITERIA = DEFAULT_GOOD.criteria()
GOOD_ROW = "A row is good when " + "; ".join(CRITERIA.values()) + "."

QUESTION = re.compile(r"[?？](?!\w)")  # not that of an address: https://site/?page=2
_BRACKET = re.compile("[()]")
EMOJI = re.compile("[\U0001f000-\U0001faff\u231a\u231b\u23e9-\u23fa\u2600-\u27bf\u2b50\u2b55\u200d]\ufe0f?")
_AFTER_SENTENCE = " \t\r\n.!…)(»”“\"'’]*_~"
_EYES = re.compile(r"[:;=]['’]?-?[()]")
_LIST_MARKER = re.compile(r"^[ \t]*(?:\d{1,3}|\w)\)", re.MULTILINE)


class Distribution(Struct, frozen=True):
    """How a number is distributed; percentiles are interpolated."""

    count: int
    """How many values there are."""
    mean: float
    p5: float
    median: float
    p95: float
    max: int
    counts: list[int]
    """How many values lie in each bin of the histogram."""
    edges: list[float]
    """Borders of the bins: one more than there are bins."""
    beyond: int
    """How many values lie above the last border."""


class RowShare(Struct, frozen=True):
    """A number of rows, and their share."""

    rows: int
    share: float
    """Share of all rows; for a channel, share of the rows whose channel is known."""


class RoleStatistics(Struct, frozen=True):
    """Statistics of one role's messages. Shares are of the messages with text."""

    messages: int
    without_text: int
    """Messages of tool calls alone, or of nothing; the numbers below leave them out."""
    characters: Distribution | None
    question_share: float | None
    """Share of the messages that hold a question."""
    closing_question_share: float | None
    """Share of the messages that end with a question; emoji, brackets and quotation marks after it do not matter."""
    emoji_share: float | None
    bracket_smile_share: float | None
    """Share of the messages with `)`, `((` or `:)` that closes or opens no bracket."""


class Duplicates(Struct, frozen=True):
    """Rows that repeat others."""

    exact_rows: int
    """Rows that repeat an earlier one letter for letter."""
    near_rows: int
    """Rows that nearly repeat an earlier one, exact ones among them."""
    near_groups: int
    threshold: float
    """Jaccard similarity from which rows are near-duplicates."""


class PersonalData(Struct, frozen=True):
    """Personal data left in the rows, apart from names, which are not looked for."""

    rows: int
    """Rows that hold any."""
    found: dict[str, int]
    """Kind → number of findings."""


class TokenStatistics(Struct, frozen=True):
    """Lengths of the rows in tokens, as the base's chat template and tokenizer make them."""

    rows: Distribution
    """Tokens a row."""
    max_length: int | None
    rows_over_max_length: int | None


class Quality(Struct, frozen=True):
    """How many rows are good, and which criteria the others fail."""

    definition: str
    good: RowShare
    failed: dict[str, int]
    """Criterion → rows that fail it; a row may fail several."""
    settings: Good
    rows: list["FailedRow"]
    """The rows that are not good, in the order of the file."""


class FailedRow(Struct, frozen=True):
    """A row that is not good, and why."""

    line: int
    """Its line in the file, from 1."""
    reasons: dict[str, str]
    """Criterion that it fails → what is the matter: kinds of personal data, characters of an answer, the
    line of the row that it repeats, the problem."""


class Statistics(Struct, frozen=True):
    """All that `govor analyze` measures; it is the content of dataset_stats.json."""

    rows: int
    messages: int
    """Number of messages, system messages left out."""
    turns: Distribution
    """Assistant's messages a row."""
    user: RoleStatistics
    assistant: RoleStatistics
    tokens: TokenStatistics | None
    """None where no base is given to count tokens with."""
    channels: dict[str, RowShare] | None
    """None where no dialogues stand beside the rows that tell their channels."""
    topics: dict[str, RowShare]
    """Shares by topic; a row may have several."""
    vocabulary: Vocabulary
    duplicates: Duplicates
    personal_data: PersonalData
    quality: Quality


def statistics(
    rows: Sequence[Row],
    *,
    topics: Topics | None = None,
    good: Good = DEFAULT_GOOD,
    count_tokens: Callable[[Row], int] | None = None,
    max_length: int | None = None,
    channels: Mapping[str, int] | None = None,
) -> Statistics:
    """Measure the rows, in time that grows with their length; `channels` are numbers of rows by channel.

    Without `topics` they come from the rows themselves.
    """
    if not rows:
        raise DataError("no rows to measure")
    conversations = [
        [message for message in row.messages if message["role"] not in ("system", "developer")] for row in rows
    ]
    groups = near_duplicate_groups(["\n".join(map(_content, messages)) for messages in conversations], good.similar)
    repeats = {index: min(group) for group in groups for index in sorted(group)[1:]}
    personal = [_personal_data(row) for row in rows]
    exact = sum(len(group) - len({_fingerprint(rows[at]) for at in group}) for group in groups)  # equal rows are alike
    by_topic, vocabulary = topics_and_vocabulary(conversations, topics)
    return Statistics(
        rows=len(rows),
        messages=sum(map(len, conversations)),
        turns=_distribution(
            [sum(message["role"] == "assistant" for message in messages) for messages in conversations]
        ),
        user=_role_statistics(chain.from_iterable(conversations), "user"),
        assistant=_role_statistics(chain.from_iterable(conversations), "assistant"),
        tokens=_tokens([count_tokens(row) for row in rows], max_length) if count_tokens else None,
        channels=None if channels is None else _shares(channels, sum(channels.values())),
        topics=_shares(by_topic, len(rows)),
        vocabulary=vocabulary,
        duplicates=Duplicates(exact, len(repeats), len(groups), good.similar),
        personal_data=PersonalData(sum(map(bool, personal)), _frequencies(personal)),
        quality=_quality(
            [
                FailedRow(row.line, _failed(row, good, personal[at], rows[repeats[at]].line if at in repeats else None))
                for at, row in enumerate(rows)
            ],
            good,
        ),
    )


def _content(message: Message) -> str:
    """The message's text and what its tool calls ask for."""
    calls = (f"{call['function']['name']} {call['function']['arguments']}" for call in message.get("tool_calls", ()))
    return "\n".join([text_of(message), *calls])


def _fingerprint(row: Row) -> bytes:
    return hashlib.sha256(row_to_json(row).encode("utf-8", "surrogatepass")).digest()


def _personal_data(row: Row) -> list[str]:
    """The kind of every finding of personal data in the row."""
    return [kind for message in row.messages for kind in _kinds(_content(message))]


@lru_cache(maxsize=16)  # the system message that all rows share
def _kinds(text: str) -> tuple[str, ...]:
    return tuple(span.kind for span in find_personal_data(text))


def _distribution(values: Sequence[int]) -> Distribution:
    """The distribution of whole numbers in about BINS bins at most; a long tail is counted beyond them."""
    import numpy as np

    percentiles: list[float] = np.percentile(values, (5, 50, 95)).tolist()
    p5, median, p95 = percentiles
    low, high = min(values), max(values)
    top = min(high, max(low + 1, int(3 * p95)))
    width = -(-(top - low + 1) // BINS)
    edges = [edge - 0.5 for edge in range(low, top + width + 1, width)]
    counts: list[int] = np.histogram(values, edges)[0].tolist()
    mean = sum(values) / len(values)
    return Distribution(len(values), mean, p5, median, p95, high, counts, edges, beyond=len(values) - sum(counts))


def _shares(counts: Mapping[str, int], whole: int) -> dict[str, RowShare]:
    return {name: RowShare(count, count / whole if whole else 0.0) for name, count in counts.items()}


def _frequencies(lists: Iterable[Iterable[str]]) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    return dict(Counter(chain.from_iterable(lists)).most_common())


def _role_statistics(messages: Iterable[Message], role: str) -> RoleStatistics:
    count = 0
    lengths: list[int] = []
    marks: Counter[str] = Counter()
    for text in (text_of(message) for message in messages if message["role"] == role):
        count += 1
        if not text.strip():
            continue
        lengths.append(len(text))
        marks["question"] += QUESTION.search(text) is not None
        marks["closing"] += ends_with_question(text)
        marks["emoji"] += EMOJI.search(text) is not None
        marks["smile"] += _has_bracket_smile(text)
    if not lengths:
        return RoleStatistics(count, count, None, None, None, None, None)
    shares = (marks[mark] / len(lengths) for mark in ("question", "closing", "emoji", "smile"))
    return RoleStatistics(count, count - len(lengths), _distribution(lengths), *shares)


def ends_with_question(text: str) -> bool:
    """Whether it ends with a question mark, emoji, brackets and quotation marks after it aside."""
    return ("?" in text or "？" in text) and EMOJI.sub("", text).rstrip(_AFTER_SENTENCE).endswith(("?", "？"))


def _has_bracket_smile(text: str) -> bool:
    """Whether it has brackets that pair with none, as in «привет)», apart from a list's: `1) …` at a line's start."""
    if not _BRACKET.search(text):
        return False
    if _EYES.search(text):
        return True
    depth = 0
    for bracket in _BRACKET.findall(_LIST_MARKER.sub("", text)):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            return True
    return depth > 0


def _tokens(lengths: list[int], max_length: int | None) -> TokenStatistics:
    over = None if max_length is None else sum(length > max_length for length in lengths)
    return TokenStatistics(_distribution(lengths), max_length, over)


def _failed(row: Row, good: Good, personal_data: list[str], repeated_line: int | None) -> dict[str, str]:
    """The criteria that a row does not fulfil, and what is the matter."""
    pairs = _trained_answers(row)
    lengths = [len(answer) for _, answer in pairs if not good.min_answer <= len(answer) <= good.max_answer]
    letters = [share for _, answer in pairs if (share := _letter_share(answer)) < good.min_letters]
    echoes = any(_letters_and_digits(answer) in question for question, answer in pairs)
    failed = {
        "invalid": next((problem.message for problem in row_problems(row.line, row_to_object(row))), ""),
        "personal_data": ", ".join(dict.fromkeys(personal_data)),
        "near_duplicate": "" if repeated_line is None else str(repeated_line),
        "answer_length": f"{lengths[0]:,}" if lengths else "" if pairs else "0",
        "not_letters": f"{letters[0]:.0%}" if letters else "",
        "echo": "echo" if echoes else "",
    }
    return {criterion: detail for criterion, detail in failed.items() if detail}


def _trained_answers(row: Row) -> list[tuple[str, str]]:
    """(letters and digits of the user's message before, trained answer) for every trained answer in words."""
    pairs, question = [], ""
    for message in row.messages:
        if message["role"] == "user":
            question = _letters_and_digits(text_of(message))
        elif is_trained(message) and (answer := text_of(message).strip()):
            pairs.append((question, answer))
    return pairs


def _letter_share(text: str) -> float:
    """Share of letters among the characters that are no spaces."""
    solid = "".join(text.split())
    return sum(map(str.isalpha, solid)) / len(solid)


def _letters_and_digits(text: str) -> str:
    """The text's letters and digits alone, in lower case."""
    return re.sub(r"[\W_]+", "", text.casefold())


def _quality(rows: Sequence[FailedRow], good: Good) -> Quality:
    """`rows` are all rows, with the criteria that each does not fulfil."""
    failed = [row for row in rows if row.reasons]
    definition = "A row is good when " + "; ".join(good.criteria().values()) + "."
    whole = len(rows)
    share = RowShare(whole - len(failed), (whole - len(failed)) / whole)
    counts = dict.fromkeys(good.criteria(), 0) | _frequencies(row.reasons for row in failed)
    return Quality(definition, share, counts, good, failed)
