"""Marks of a manner that can be counted: how often real, base and tuned answers bear each."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from train.chats.privacy.morphology import analyse
from train.chats.statistics import EMOJI, QUESTION, ends_with_question
from train.evaluation.intervals import Interval, Side, cluster_interval
from train.evaluation.style import FEWEST, Answer

_SENTENCE_END = re.compile(r"[.!?…。！？]+")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|[\u3040-\u30ff\u3400-\u9fff]")
_TY = re.compile(r"\b(?:ты|тебя|тебе|тобой|тобою|тво(?:й|я|ё|е|и|его|ей|ему|ю|им|ём|их|ими))\b", re.IGNORECASE)
_VY = re.compile(r"\b(?:вы|вас|вам|вами|ваш(?:|а|е|и|его|ей|ему|у|им|ем|их|ими))\b", re.IGNORECASE)
_IMAGE = re.compile(r"\b(?:как|словно|будто|точно|подобно|похож\w*|напомина\w+)\b", re.IGNORECASE)
_YO = re.compile("ё", re.IGNORECASE)
_CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
FLAGGED = 3
"""Standard errors from the real answers from which a mark is flagged: by chance about one of 400. None is with fewer
dialogues than a position takes."""


class Marker(NamedTuple):
    """One mark: what is counted, by name and in words."""

    name: str
    measure: Callable[[str], float]
    """The number that an answer gives; the mean over answers is shown."""
    russian: bool = False
    """Whether it says something of Russian alone."""


class MarkerRow(NamedTuple):
    """One mark's means, and how far the answers judged are from the real ones."""

    name: str
    real: float
    base: float
    tuned: float
    difference: Interval
    """Of the tuned answers from the real ones."""
    flagged: bool


def _sentences(text: str) -> int:
    return max(1, sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text)))


def _words(text: str) -> int:
    return len(_WORD.findall(text))


def _imperatives(text: str) -> int:
    return sum(analyse(word)[0].tag.mood == "impr" for word in _WORD.findall(text) if _CYRILLIC.search(word))


MARKERS = (
    Marker("question", lambda text: bool(QUESTION.search(text))),
    Marker("closing_question", ends_with_question),
    Marker("emoji", lambda text: bool(EMOJI.search(text))),
    Marker("words", _words),
    Marker("sentence_words", lambda text: _words(text) / _sentences(text)),
    Marker("dashes", lambda text: len(re.findall("[—–]| - ", text)) / _sentences(text)),
    Marker("ty", lambda text: bool(_TY.search(text)), russian=True),
    Marker("vy", lambda text: bool(_VY.search(text)), russian=True),
    Marker("yo", lambda text: 100 * len(_YO.findall(text)) / max(1, _words(text)), russian=True),
    Marker("imperatives", lambda text: _imperatives(text) / _sentences(text), russian=True),
    Marker("images", lambda text: len(_IMAGE.findall(text)) / _sentences(text), russian=True),
)
"""Shares of answers (question, closing_question, emoji, ty, vy), words an answer and a sentence, dashes, imperatives
and words of comparison a sentence, letters ё a hundred words. `opening` is added to them: the share of the other
dialogues' answers that begin with the same two words."""


def is_russian(answers: Sequence[Answer]) -> bool:
    """Whether most letters of the answers are Cyrillic."""
    letters = [letter for answer in answers for letter in answer.text if letter.isalpha()]
    return sum(bool(_CYRILLIC.match(letter)) for letter in letters) > len(letters) / 2


def marker_table(real: Sequence[Answer], base: Sequence[Answer], tuned: Sequence[Answer]) -> list[MarkerRow]:
    """The marks of all three; those of Russian only where the real answers are. Empty with too few dialogues."""
    sides = (real, base, tuned)
    enough = min(len({answer.dialogue for answer in side}) for side in (real, tuned)) >= FEWEST
    numbers = {
        marker.name: [[float(marker.measure(answer.text)) for answer in side] for side in sides]
        for marker in MARKERS
        if is_russian(real) or not marker.russian
    }
    numbers["opening"] = [_same_openings(side) for side in sides]
    table = []
    for name, values in numbers.items():
        compared = [Side(values[at], [answer.dialogue for answer in sides[at]]) for at in (0, 2)]
        difference = cluster_interval(compared, lambda real, tuned: tuned - real)
        if difference is None:
            return []
        error = (difference.high - difference.low) / 3.92
        if name == "opening":  # where no two real answers begin alike, their resamples do not vary
            error = max(error, 1 / len(real))
        flagged = enough and abs(difference.value) > FLAGGED * error
        means = [sum(side) / len(side) for side in values]
        table.append(MarkerRow(name, means[0], means[1], means[2], difference, flagged))
    return table


def _same_openings(answers: Sequence[Answer]) -> list[float]:
    """Of each answer the share of other dialogues' answers that begin with the same two words."""
    openings = [" ".join(_WORD.findall(answer.text.lower())[:2]) for answer in answers]
    everywhere = Counter(openings)
    inside = Counter(zip(openings, (answer.dialogue for answer in answers), strict=True))
    sizes = Counter(answer.dialogue for answer in answers)
    return [
        (everywhere[opening] - inside[opening, answer.dialogue]) / max(1, len(answers) - sizes[answer.dialogue])
        for opening, answer in zip(openings, answers, strict=True)
    ]
