"""Whose manner answers have: where they lie between the base and the persona, and whether anything tells them apart.

One number does not do. The position shows progress; the two-sample test tells whether anything is left to tell tuned
answers from real ones, and saturates early; the markers (markers.py) name what it is.
"""

import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from train.chats.privacy.morphology import analyse
from train.evaluation.intervals import Interval, Side, cluster_interval, resamples

FOLDS = 5
ORDER = 3
CONTENT = {"NOUN", "ADJF", "ADJS", "COMP", "VERB", "INFN", "PRTF", "PRTS", "GRND", "NUMR"}
"""Parts of speech, as pymorphy3 names them, that say what a text is about rather than how it is said."""
_TOKEN = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*|\d+|[^\w\s]|_")
_CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


class Answer(NamedTuple):
    """An answer, and the dialogue that it belongs to."""

    dialogue: Hashable
    text: str
    turn: int = 1
    """The number of the answer in its dialogue, from 1."""


@lru_cache(maxsize=200_000)
def _masked(word: str) -> str:
    """A content word's part of speech, with person and mood of a verb; any other word as it is."""
    if not _CYRILLIC.search(word):
        return word
    tag = analyse(word)[0].tag
    if tag.POS not in CONTENT:
        return word
    return " ".join(str(part) for part in (tag.POS, tag.mood, tag.person) if part)


def style_tokens(text: str) -> list[str]:
    """The text as tokens that show manner: content words masked, digits as one, every punctuation mark by itself.

    Words that are not Russian stay as they are, so that for other languages topics count too; of Chinese, Japanese and
    Korean each character is a token.
    """
    tokens = []
    for token in _TOKEN.findall(text.lower()):
        if _IDEOGRAPHS.search(token):
            tokens += token
        else:
            tokens.append("0" if token.isdigit() else _masked(token))
    return tokens


class NgramModel:
    """Probabilities of a token after the two before it, interpolated as Witten and Bell did (1991, method C)."""

    def __init__(self, texts: Sequence[Sequence[str]], vocabulary: int) -> None:
        self._uniform = 1 / (vocabulary + 1)
        self._counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for tokens in texts:
            for context, token in _contexts(tokens):
                for length in range(ORDER):
                    self._counts[context[ORDER - 1 - length :]][token] += 1
        self._totals = {context: counts.total() for context, counts in self._counts.items()}

    def log_probability(self, tokens: Sequence[str]) -> float:
        """Nats a token, the end among them."""
        found = [math.log(self._probability(context, token)) for context, token in _contexts(tokens)]
        return sum(found) / len(found)

    def _probability(self, context: tuple[str, ...], token: str) -> float:
        found = self._uniform
        for length in range(ORDER):
            shorter = context[ORDER - 1 - length :]
            if total := self._totals.get(shorter):
                counts = self._counts[shorter]
                found = (counts.get(token, 0) + len(counts) * found) / (total + len(counts))
        return found


def _contexts(tokens: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(the two tokens before, token) of each token and of the end."""
    padded = ["\n"] * (ORDER - 1) + [*tokens, "\n"]
    for at in range(ORDER - 1, len(padded)):
        yield tuple(padded[at - ORDER + 1 : at]), padded[at]


class Position(NamedTuple):
    """Where answers lie between the base's (0) and the persona's real ones (1)."""

    whole: Interval
    by_turn: dict[int, Interval]
    """By the number of the answer in its dialogue, the last for all from there on; of FEWEST dialogues at least."""
    scores: list[float]
    """Of each answer: the higher, the more like the persona."""


TURNS = 4
"""Answers from this one on are taken together."""
FEWEST = 8
"""Dialogues that a position takes. Drawn from the shipped persona, its interval held 1 in 38 of 52 draws with four
dialogues, in 44 of 56 with six, in 52 of 59 with eight, in 55 of 60 with twelve."""


def position(
    persona: Sequence[str], base: Sequence[Answer], real: Sequence[Answer], answers: Sequence[Answer]
) -> Position | None:
    """Where `answers` lie between those of the base and the real ones, by which of two n-gram models expects them more.

    One model is of `persona`, answers that the tuned model was trained on; the other of the base's answers in other
    dialogues than that of the answer in question. The score of an answer is the difference in nats a token. Meant after
    LambdaG (arXiv 2403.08462). None where the real answers are not sure to lie above the base's, or are of fewer than
    FEWEST dialogues, or those judged are.
    """
    trained = [style_tokens(text) for text in persona]
    sides = [[style_tokens(answer.text) for answer in side] for side in (base, real, answers)]
    vocabulary = len({token for texts in (trained, *sides) for tokens in texts for token in tokens})
    expected = NgramModel(trained, vocabulary)
    fold_of = _folds(base, real, answers)
    others = [
        NgramModel(
            [t for t, answer in zip(sides[0], base, strict=True) if fold_of[answer.dialogue] != fold], vocabulary
        )
        for fold in range(FOLDS)
    ]
    scores = [
        [
            expected.log_probability(tokens) - others[fold_of[answer.dialogue]].log_probability(tokens)
            for tokens, answer in zip(texts, side, strict=True)
        ]
        for texts, side in zip(sides, (base, real, answers), strict=True)
    ]

    def between(chosen: Callable[[Answer], bool]) -> Interval | None:
        kept = [
            Side(
                [value for value, answer in zip(values, side, strict=True) if chosen(answer)],
                [answer.dialogue for answer in side if chosen(answer)],
            )
            for values, side in zip(scores, (base, real, answers), strict=True)
        ]
        if min(len(set(side.dialogues)) for side in kept[1:]) < FEWEST:
            return None
        gap = cluster_interval(kept[:2], lambda low, high: high - low)
        if gap is None or gap.low <= 0:  # it would be divided by what may be nothing
            return None
        return cluster_interval(kept, lambda low, high, at: (at - low) / (high - low))

    if (whole := between(lambda _: True)) is None:
        return None

    def at_turn(turn: int) -> Interval | None:
        return between(lambda answer: min(answer.turn, TURNS) == turn)

    turns = {turn: at_turn(turn) for turn in range(1, TURNS + 1)}
    return Position(whole, {turn: found for turn, found in turns.items() if found}, scores[2])


def _folds(*sides: Sequence[Answer]) -> dict[Hashable, int]:
    """Dialogue → one of FOLDS folds of equal size, the same at every call."""
    dialogues = list(dict.fromkeys(answer.dialogue for side in sides for answer in side))
    order = np.random.default_rng(0).permutation(len(dialogues))
    return {dialogues[at]: int(place) % FOLDS for place, at in enumerate(order)}


class TwoSample(NamedTuple):
    """Whether anything tells two sets of answers apart."""

    auc: float
    """How often an answer of the second set is told from one of the first; 0.5 is by chance."""
    low: float
    """The lower border of its interval of 95 %."""
    high: float
    p: float
    """How likely so much is by chance."""
    spread: float
    """Standard deviation of the AUC by chance."""


DIMENSIONS = 2**15
RIDGE = 0.1
PERMUTATIONS = 500
STRETCH_PERMUTATIONS = 8


def two_sample(first: Sequence[Answer], second: Sequence[Answer]) -> TwoSample | None:
    """The two-sample test of a classifier (kernel ridge over character 2–5-grams), folds and permutations by dialogue.

    After Lopez-Paz and Oquab (arXiv 1610.06545). The interval of the AUC is a bootstrap over dialogues, stretched until
    it would be as wide as permutations spread. None where a side has fewer than two dialogues a fold.
    """
    answers = [*first, *second]
    fold_of = _folds(answers)
    if min(len({answer.dialogue for answer in side}) for side in (first, second)) < 2 * FOLDS:
        return None
    kernel = _kernel([answer.text for answer in answers])
    folds = np.array([fold_of[answer.dialogue] for answer in answers])
    weights = np.zeros_like(kernel)  # predictions = weights @ labels
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        ridge = kernel[np.ix_(outside, outside)] + RIDGE * np.eye(len(outside))
        solved = np.linalg.solve(ridge, kernel[np.ix_(outside, inside)]).T
        weights[np.ix_(inside, outside)] = solved - solved.mean(axis=1, keepdims=True)
    blocks = [(side, answer.dialogue) for side, group in enumerate((first, second)) for answer in group]
    number = {block: at for at, block in enumerate(dict.fromkeys(blocks))}
    sides = np.array([side for side, _ in number])
    random = np.random.default_rng(0)
    permuted = np.stack([sides, *(random.permutation(sides) for _ in range(PERMUTATIONS))], axis=1)
    labels = permuted[[number[block] for block in blocks]]
    predictions = weights @ labels
    aucs = _auc(predictions, labels, folds)
    p = (1 + (aucs[1:] >= aucs[0]).sum()) / (1 + PERMUTATIONS)
    spread = aucs[1:].std()
    drawn = resamples([answer.dialogue for answer in answers])
    found, *by_chance = (
        _drawn_auc(predictions[:, at], labels[:, at], folds, drawn) for at in range(1 + STRETCH_PERMUTATIONS)
    )
    # Resamples do not train the classifier anew, which makes them too alike. By how much is known where chance decides
    stretch = max(1.0, spread / max(1e-9, np.mean([np.nanstd(each) for each in by_chance])))
    low, high = np.clip(aucs[0] + stretch * (np.nanpercentile(found, [2.5, 97.5]) - aucs[0]), 0, 1)
    return TwoSample(float(aucs[0]), float(low), float(high), float(p), float(spread))


def _kernel(texts: Sequence[str]) -> np.ndarray:
    """Cosines of the texts' character 2–5-grams, [text, text]; frequent grams of a text count by their logarithm."""
    vectors: np.ndarray = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    for row, text in enumerate(texts):
        padded = f" {text} "
        grams = Counter(padded[at : at + n] for n in range(2, 6) for at in range(len(padded) - n + 1))
        for gram, count in grams.items():
            vectors[row, zlib.crc32(gram.encode()) % DIMENSIONS] += 1 + math.log(count)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kernel: np.ndarray = (vectors @ vectors.T).astype(np.float64)
    return kernel


def _auc(predictions: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Of each column: how often a label 1 has a higher prediction than a label 0 of the same fold; alike is half.

    Across folds they are not comparable: the more ones a fold has, the fewer the model of the others has seen.
    """
    from scipy.stats import rankdata

    won = pairs = np.zeros(labels.shape[1])
    for fold in range(FOLDS):
        inside = folds == fold
        ranks = rankdata(predictions[inside].round(9), axis=0)  # equal texts are equal up to rounding
        ones, count = labels[inside].sum(axis=0), inside.sum()
        won = won + (ranks * labels[inside]).sum(axis=0) - ones * (ones + 1) / 2
        pairs = pairs + ones * (count - ones)
    found: np.ndarray = won / pairs
    return found


def _drawn_auc(predictions: np.ndarray, labels: np.ndarray, folds: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The AUC of one column where each answer counts as often as it was drawn; `drawn`: [resample, answer]."""
    won = pairs = np.zeros(len(drawn))
    for fold in range(FOLDS):
        ones, zeros = (np.flatnonzero((folds == fold) & (labels == label)) for label in (1, 0))
        higher = (predictions[ones][:, None] - predictions[zeros]).round(9)
        won = won + (drawn[:, ones] @ (1 + np.sign(higher)) / 2 * drawn[:, zeros]).sum(axis=1)
        pairs = pairs + drawn[:, ones].sum(axis=1) * drawn[:, zeros].sum(axis=1)
    with np.errstate(invalid="ignore"):  # a resample without a pair
        found: np.ndarray = won / pairs
    return found
