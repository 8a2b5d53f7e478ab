"""What generated rows must pass, cheap before dear; each refusal has a reason, which is counted.

row       empty, cut off, or no valid row
script    letters of another script than the training rows' answers
length    shorter or longer than the persona's answers
personal  personal data, or a key
repeated  nearly a training row, or another generated one
held_out  a run of words from a held-out row
opening   begins as too many others do
style     less like the persona than the persona's own answers
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from train.chats.duplicates import SHORT, alike, near_duplicate_groups
from train.chats.privacy.scrub import find_personal_data
from train.chats.rows import Message, Row, text_of, trained_answers
from train.chats.rules import row_problems
from train.core.errors import DataError
from train.core.secrets import find_secrets
from train.evaluation.forgetting import PROSE
from train.evaluation.leakage import FREE_WORDS, longest_copies, words_of
from train.evaluation.style import FOLDS, NgramModel, style_tokens

LONGEST_QUESTION = 1000
"""Characters."""
MARGIN = 0.25
"""Of the lengths: of 48 held-out answers of data/natasha.jsonl 6 lie outside the 1st to 99th percentile, 1 with it."""
OPENING = 3
"""Words."""
REPEATED_OPENINGS = 0.03
"""Share of the rows that may begin alike, unless those of the persona do so more often."""


class Made(NamedTuple):
    """A generated row before the gates."""

    question: str
    answer: str
    cut_off: bool = False


class Verdict(NamedTuple):
    """What the gates say of a row."""

    refused: str | None
    """The gate that it did not pass."""
    scores: dict[str, float]
    """What was measured: share of the main script, nats a token of the style."""


def script_of(character: str) -> str | None:
    """The script of a letter, by its Unicode name (LATIN, CYRILLIC, CJK, …); None for what is no letter."""
    return unicodedata.name(character, "?").split()[0].split("-")[0] if character.isalpha() else None


def script_share(text: str, script: str) -> float:
    """Share of the letters that are of the script; 0 without letters."""
    counts = Counter(filter(None, map(script_of, text)))
    return counts[script] / counts.total() if counts else 0.0


class Gates:
    """The gates by the rows that are trained on; remembers what has passed."""

    def __init__(self, train: Sequence[Row], held_out: Sequence[Row], wanted: int, style_percentile: float) -> None:
        self._answers = [text for row in train for at in trained_answers(row.messages) if (text := _text(row, at))]
        if len(self._answers) < 2 * FOLDS:
            raise DataError(f"{len(self._answers)} answers to go by: at least {2 * FOLDS} are needed")
        self._questions = [text_of(m) for row in train for m in row.messages if m["role"] == "user"]
        self._held_out = [(row.line, text_of(m)) for row in held_out for m in row.messages if m["role"] != "system"]
        scripts = Counter(filter(None, (script_of(letter) for text in self._answers for letter in text)))
        self.script = scripts.most_common(1)[0][0] if scripts else "LATIN"
        self._script_share = min(0.9, percentile([script_share(text, self.script) for text in self._answers], 1))
        lengths = [len(text) for text in self._answers]
        self._lengths = percentile(lengths, 1) * (1 - MARGIN), percentile(lengths, 99) * (1 + MARGIN)
        openings = Counter(map(_opening, self._answers))
        usual = openings.most_common(1)[0][1] / len(self._answers)
        self._most_alike = max(2, math.ceil(wanted * max(REPEATED_OPENINGS, usual)))
        self._openings: Counter[tuple[str, ...]] = Counter()
        self._passed: list[Made] = []
        self._style = Style(self._answers, self.script, style_percentile)

    def questions(self, texts: Sequence[str]) -> list[str | None]:
        """For each question the gate that refuses it, before anything is paid for its answer."""
        copies = longest_copies(texts, self._held_out)
        repeated = set(alike([*self._questions, *(made.question for made in self._passed)], texts))
        repeated |= {at for group in near_duplicate_groups(texts) for at in group[1:]}
        found: list[str | None] = []
        for at, (text, copy) in enumerate(zip(texts, copies, strict=True)):
            reasons = (
                ("row", len(words_of(text)) < 2 or len(text) > LONGEST_QUESTION),
                ("script", script_share(text, self.script) < 0.5),
                ("personal", is_private(text)),
                ("repeated", at in repeated),
                ("held_out", copy.words >= FREE_WORDS),
            )
            found.append(next((reason for reason, holds in reasons if holds), None))
        return found

    def rows(self, made: Sequence[Made]) -> list[Verdict]:
        """What becomes of each row; those that pass count for the ones after them."""
        answers = [one.answer for one in made]
        copies = longest_copies([text for one in made for text in (one.question, one.answer)], self._held_out)
        repeated = set(alike([*self._answers, *(one.answer for one in self._passed)], answers))
        groups = {at: group for group in near_duplicate_groups(answers) for at in group}
        verdicts: list[Verdict] = []
        for at, one in enumerate(made):
            copied = max(copies[2 * at].words, copies[2 * at + 1].words)
            earlier = any(before < at and verdicts[before].refused is None for before in groups.get(at, ()))
            scores: dict[str, float] = {}
            refused = self._refusal(one, copied, at in repeated or earlier, scores)
            if refused is None:
                self._openings[_opening(one.answer)] += 1
                self._passed.append(one)
            verdicts.append(Verdict(refused, scores))
        return verdicts

    def _refusal(self, made: Made, copied: int, repeated: bool, scores: dict[str, float]) -> str | None:
        """The first gate that the row does not pass; what is measured on the way is put into `scores`."""
        if made.cut_off or not made.answer.strip() or any(row_problems(0, {"messages": messages_of(made, None)})):
            return "row"
        scores["script"] = round(script_share(made.answer, self.script), 3)
        if scores["script"] < self._script_share:
            return "script"
        if not self._lengths[0] <= len(made.answer) <= self._lengths[1]:
            return "length"
        if is_private(made.question) or is_private(made.answer):
            return "personal"
        if repeated:
            return "repeated"
        if copied >= FREE_WORDS:
            return "held_out"
        if self._openings[_opening(made.answer)] >= self._most_alike:
            return "opening"
        scores["style"] = round(self._style.score(made.answer), 3)
        return "style" if scores["style"] < self._style.least else None


def messages_of(made: Made, system: str | None) -> list[Message]:
    """The row's conversation."""
    turns: list[Message] = [{"role": "user", "content": made.question}, {"role": "assistant", "content": made.answer}]
    return [{"role": "system", "content": system}, *turns] if system else turns


class Style:
    """How much more a persona's model expects an answer than a model of plain prose does, in nats a token.

    For Russian alone there is such prose; otherwise only the persona's model counts.
    """

    def __init__(self, answers: Sequence[str], script: str, at: float) -> None:
        """`at`: the percentile of the answers' own scores, each by a model of the others, that `least` is."""
        tokens = [style_tokens(text) for text in answers]
        prose = PROSE.read_text(encoding="utf-8").split("\n") if script == "CYRILLIC" else []
        plain = [style_tokens(line) for line in prose if len(line) > SHORT]
        vocabulary = len({token for text in (*tokens, *plain) for token in text})
        self._plain = NgramModel(plain, vocabulary) if plain else None
        scores: list[float] = []
        for fold in range(FOLDS):
            self._persona = NgramModel([text for at, text in enumerate(tokens) if at % FOLDS != fold], vocabulary)
            scores += map(self._score, tokens[fold::FOLDS])
        self.least = percentile(scores, at)
        self._persona = NgramModel(tokens, vocabulary)

    def score(self, text: str) -> float:
        return self._score(style_tokens(text))

    def _score(self, tokens: Sequence[str]) -> float:
        return self._persona.log_probability(tokens) - (self._plain.log_probability(tokens) if self._plain else 0)


def percentile(values: Sequence[float], at: float) -> float:
    import numpy as np

    return float(np.percentile(values, at))


def _text(row: Row, at: int) -> str:
    return text_of(row.messages[at]).strip()


def _opening(text: str) -> tuple[str, ...]:
    return tuple(words_of(text)[:OPENING])


def is_private(text: str) -> bool:
    """Whether a text holds personal data, or a key."""
    return bool(find_personal_data(text)) or any(True for _ in find_secrets(text))
