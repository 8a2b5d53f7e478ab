"""A run beside the one that it went on from: nearer to the persona or farther?"""

import math
from typing import NamedTuple

from train.evaluation.intervals import Interval

SAME_LENGTH = 0.05
"""Share by which the median length of answers must change to be called better or worse."""


class Beside(NamedTuple):
    """The answers of the run that this one began with, beside its own: before and after."""

    run: str
    manner: tuple[Interval, Interval] | None
    """Positions."""
    length: tuple[float, float]
    """Median characters of an answer."""
    persona_length: float
    copies: tuple[int, int] | None
    """Words of the longest copy."""

    def better(self) -> dict[str, float]:
        """Of manner, length and copies: above 0 where this run is nearer to the persona or copies less, 0 alike."""
        found = {}
        if self.manner:
            (old, low, high), new = self.manner[0], self.manner[1].value
            found["manner"] = 0.0 if low <= new <= high else abs(1 - old) - abs(1 - new)
        before, after, own = (math.log(max(1.0, length)) for length in (*self.length, self.persona_length))
        found["length"] = 0.0 if abs(after - before) < SAME_LENGTH else abs(before - own) - abs(after - own)
        if self.copies:
            found["copies"] = float(self.copies[0] - self.copies[1])
        return found

    def sentence(self, *, russian: bool) -> str:
        """Better or worse than the earlier run, in a sentence."""
        words = ("без перемен", "лучше", "хуже") if russian else ("no change", "better", "worse")
        told = {name: words[(better > 0) - (better < 0)] for name, better in self.better().items()}
        (before, after), own = self.length, self.persona_length
        parts = []
        if self.manner:
            manner = " → ".join(f"{place.value:.2f}" for place in self.manner)
            parts.append(f"манера {manner.replace('.', ',')}" if russian else f"manner {manner}")
            parts[0] += f" ({told['manner']})"
        length = f"{before:.0f} → {after:.0f}"
        parts.append(
            f"медиана длины {length} знаков, у персоны {own:.0f} ({told['length']})"
            if russian
            else f"median length {length} characters, the persona's {own:.0f} ({told['length']})"
        )
        if self.copies:
            copies = " → ".join(map(str, self.copies))
            what = f"длиннейшая цитата, в словах: {copies}" if russian else f"longest copy {copies} words"
            parts.append(f"{what} ({told['copies']})")
        return f"{'Рядом с' if russian else 'Beside'} {self.run}: {', '.join(parts)}."
