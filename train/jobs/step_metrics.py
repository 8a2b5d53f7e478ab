"""A run's metrics.jsonl → step events, checkpoint metrics and the result file, in OpenAI's words."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

WIRE = {
    "train_loss": "loss",
    "train_mean_token_accuracy": "mean_token_accuracy",
    "valid_loss": "eval_loss",
    "valid_mean_token_accuracy": "eval_mean_token_accuracy",
}
"""Name on the wire → name in metrics.jsonl."""


@dataclass
class Tail:
    """Reads the lines that a growing file has won since the last look; from the start where it was written anew."""

    path: Path
    _file: tuple[int, int] = (0, 0)
    _read: int = 0

    def new_lines(self) -> list[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                stat = self.path.stat()
                if (stat.st_dev, stat.st_ino) != self._file or stat.st_size < self._read:
                    self._file, self._read = (stat.st_dev, stat.st_ino), 0
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.split(b"\n") if line]


class Step(NamedTuple):
    """One step as its event tells it."""

    step: int
    message: str
    data: dict[str, Any]


@dataclass
class Steps:
    """Gathers a step's lines: its training loss comes first, what was evaluated there follows on a line of its own."""

    total: int
    evaluated_every: int
    """Steps between two evaluations; 0: none."""
    after: int
    """Steps up to this one are known already."""
    _waiting: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, lines: Iterable[dict[str, Any]]) -> None:
        for line in lines:
            if line["step"] > self.after:
                self._waiting.setdefault(line["step"], {}).update(line)

    def ready(self, *, ended: bool = False) -> Iterator[Step]:
        """Steps that nothing is to be added to, in order. `ended`: no further line will come."""
        for number in sorted(self._waiting):
            line = self._waiting[number]
            due = self.evaluated_every and (number % self.evaluated_every == 0 or number == self.total)
            if due and "eval_loss" not in line and not ended and number == max(self._waiting):
                return
            del self._waiting[number]
            if "loss" in line:
                self.after = number
                yield self._step(number, line)

    def _step(self, number: int, line: dict[str, Any]) -> Step:
        message = f"Step {number}/{self.total}: training loss={line['loss']:.2f}"
        data: dict[str, Any] = {"step": number, "total_steps": self.total, **on_the_wire(line)}
        if "eval_loss" in line:
            message += f", validation loss={line['eval_loss']:.2f}"
            if number == self.total:
                message += f", full validation loss={line['eval_loss']:.2f}"
                data |= full_validation(line)
        return Step(number, message, data)


def on_the_wire(line: dict[str, Any]) -> dict[str, float]:
    """Without values that JSON cannot say."""
    found = {name: line[ours] for name, ours in WIRE.items() if line.get(ours) is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def full_validation(line: dict[str, Any]) -> dict[str, float]:
    """Every evaluation here runs over all held-out rows."""
    return {f"full_{name}": value for name, value in on_the_wire(line).items() if name.startswith("valid")}


def by_step(lines: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """All that is known of each step, from 1."""
    steps: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["step"] > 0:
            steps.setdefault(line["step"], {}).update(line)
    return dict(sorted(steps.items()))


def result_csv(lines: Iterable[dict[str, Any]]) -> str:
    """step_metrics.csv: a row a step, empty cells where nothing was evaluated."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"])
    for step, line in by_step(lines).items():
        if "loss" in line:
            writer.writerow([step, *("" if line.get(name) is None else _short(line[name]) for name in WIRE.values())])
    return text.getvalue()


def _short(number: float) -> float:
    return round(number, 5)
