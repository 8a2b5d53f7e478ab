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
    numbers = {dialogue: at for at, dialogue in enumerate(dict.fromkeys(d for side in sides for d in side.dialogues))}
    if min(len(set(side.dialogues)) for side in sides) < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(len(numbers), [1 / len(numbers)] * len(numbers), RESAMPLES)
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
