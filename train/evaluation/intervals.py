"""Intervals and tests over answers that do not stand alone: those of one dialogue are drawn together."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 1000


class Interval(NamedTuple):
    """A value and the borders of its interval of 95 %."""

    value: float
    low: float
    high: float


class Side(NamedTuple):
    """A number for each answer of one origin, and the dialogue that each answer belongs to."""

    values: Sequence[float]
    dialogues: Sequence[Hashable]


def cluster_interval(sides: Sequence[Side], statistic: Callable[..., Any], *, seed: int = 0) -> Interval | None:
    """A statistic of the sides' means, with its bootstrap interval (percentiles of 1000 resamples of the dialogues).

    `statistic` takes one number or array a side. A dialogue that is drawn counts on every side that has answers of it,
    so that sides with the same prompts are compared in pairs. None where a side has fewer than two dialogues.
    """
    if min(len(set(side.dialogues)) for side in sides) < 2:
        return None
    numbers, drawn = _draw([dialogue for side in sides for dialogue in side.dialogues], seed)
    wholes, means = [], []
    for side in sides:
        at = [numbers[dialogue] for dialogue in side.dialogues]
        sums = np.bincount(at, weights=np.asarray(side.values, dtype=float), minlength=len(numbers))
        counts = np.bincount(at, minlength=len(numbers))
        wholes.append(sums.sum() / counts.sum())
        with np.errstate(invalid="ignore"):  # a side of which nothing was drawn
            means.append((drawn @ sums) / (drawn @ counts))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = statistic(*means)
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return Interval(float(statistic(*wholes)), float(low), float(high))


def resamples(dialogues: Sequence[Hashable], *, seed: int = 0) -> np.ndarray:
    """How often each answer is drawn, [1000, answers], where dialogues are drawn; `dialogues`: that of each answer."""
    numbers, drawn = _draw(dialogues, seed)
    return drawn[:, [numbers[dialogue] for dialogue in dialogues]]


def _draw(dialogues: Sequence[Hashable], seed: int) -> tuple[dict[Hashable, int], np.ndarray]:
    """(dialogue → its column, how often each was drawn [resample, column])."""
    numbers = {dialogue: at for at, dialogue in enumerate(dict.fromkeys(dialogues))}
    drawn = np.random.default_rng(seed).multinomial(len(numbers), [1 / len(numbers)] * len(numbers), RESAMPLES)
    return numbers, drawn


def difference(first: Interval, second: Interval) -> Interval:
    """First less second, of different dialogues; distances to the borders are added in squares (Newcombe 1998)."""
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """The two-sided p of McNemar's exact test: whether as many answers turned wrong as turned right."""
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    changed, fewer = lost + won, min(lost, won)
    tail: float = sum(math.comb(changed, k) for k in range(fewer + 1)) / 2.0**changed
    return min(1.0, 2 * tail)


def wilson(right: float, of: int) -> Interval:
    """A share and its interval of 95 % by Wilson's score; a tie counts as half, which makes the interval too wide."""
    z, share = 1.96, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
