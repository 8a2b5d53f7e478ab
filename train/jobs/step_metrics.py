"""A run's metrics.jsonl → step events, checkpoint metrics and the result file, in OpenAI's names."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

WIRE_METRICS = {
    "train_loss": "loss",
    "train_mean_token_accuracy": "mean_token_accuracy",
    "valid_loss": "eval_loss",
    "valid_mean_token_accuracy": "eval_mean_token_accuracy",
    "train_reward_margin": "rewards/margins",
    "train_reward_accuracy": "rewards/accuracies",
    "valid_reward_margin": "eval_rewards/margins",
    "valid_reward_accuracy": "eval_rewards/accuracies",
}
"""Name on the wire → name in metrics.jsonl. The last four are preference tuning's."""
REWARDS = {name: key for name, key in WIRE_METRICS.items() if "reward" in name}
RESULT_COLUMNS = {
    "train_loss": "loss",
    "train_accuracy": "mean_token_accuracy",
    "valid_loss": "eval_loss",
    "valid_mean_token_accuracy": "eval_mean_token_accuracy",
}


@dataclass
class Tail:
    """Reads the new lines of a growing JSONL file; from the start where the file was replaced."""

    path: Path
    _file: tuple[int, int] = (0, 0)
    _read: int = 0

    def new_lines(self) -> list[dict[str, Any]]:
        """The lines that were completed since the last call."""
        try:
            with self.path.open("rb") as file:
                stat = self.path.stat()
                if (stat.st_dev, stat.st_ino) != self._file or stat.st_size < self._read:
                    self._file, self._read = (stat.st_dev, stat.st_ino), 0
                file.seek(self._read)
                complete, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(complete) + 1 if complete else 0
        return [json.loads(line) for line in complete.split(b"\n") if line]


class Step(NamedTuple):
    """What the event of a step says."""

    step: int
    message: str
    data: dict[str, Any]


@dataclass
class StepCollector:
    """Gathers the lines of each step: first that of its training loss, then, where it was evaluated, another one."""

    total: int
    eval_every: int
    """Steps between two evaluations; 0 where there are none."""
    after: int
    """The last step that has been handed out; earlier ones are not handed out again."""
    _waiting: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take in lines of metrics.jsonl."""
        for line in lines:
            if line["step"] > self.after:
                self._waiting.setdefault(line["step"], {}).update(line)

    def ready(self, *, ended: bool = False) -> Iterator[Step]:
        """The steps that are complete, in order, each once. `ended`: no further line will come."""
        for number in sorted(self._waiting):
            line = self._waiting[number]
            due = self.eval_every and (number % self.eval_every == 0 or number == self.total)
            if due and "eval_loss" not in line and not ended and number == max(self._waiting):
                return
            del self._waiting[number]
            if "loss" in line:
                self.after = number
                yield self._step(number, line)

    def _step(self, number: int, line: dict[str, Any]) -> Step:
        message = f"Step {number}/{self.total}: training loss={line['loss']:.2f}{_rewards(line, '')}"
        data: dict[str, Any] = {"step": number, "total_steps": self.total, **wire_metrics(line)}
        if "eval_loss" in line:
            message += f", validation loss={line['eval_loss']:.2f}{_rewards(line, 'eval_')}"
            if number == self.total:
                message += f", full validation loss={line['eval_loss']:.2f}"
                data |= full_validation_metrics(line)
        return Step(number, message, data)


def _rewards(line: dict[str, Any], held_out: str) -> str:
    """`, margin=0.31, accuracy=0.75` of a step of preference tuning."""
    names = (("margin", "rewards/margins"), ("accuracy", "rewards/accuracies"))
    return "".join(f", {name}={line[held_out + key]:.2f}" for name, key in names if held_out + key in line)


def wire_metrics(line: dict[str, Any]) -> dict[str, float]:
    """The metrics of a line under their names on the wire, without those that JSON has no number for."""
    metrics = {name: line[key] for name, key in WIRE_METRICS.items() if line.get(key) is not None}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def full_validation_metrics(line: dict[str, Any]) -> dict[str, float]:
    """The validation metrics once more as `full_…`: every evaluation here runs over all held-out rows."""
    return {f"full_{name}": value for name, value in wire_metrics(line).items() if name.startswith("valid")}


def lines_by_step(lines: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The lines of each step merged into one, by step from 1."""
    steps: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["step"] > 0:
            steps.setdefault(line["step"], {}).update(line)
    return dict(sorted(steps.items()))


def result_csv(lines: Iterable[dict[str, Any]]) -> str:
    """The text of step_metrics.csv: a row for each step, empty cells where nothing was evaluated.

    Preference tuning has columns for margin and accuracy behind those that every job has.
    """
    text, steps = io.StringIO(), lines_by_step(lines)
    told = any(key in line for line in steps.values() for key in REWARDS.values())
    columns = RESULT_COLUMNS | (REWARDS if told else {})
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *columns])
    for step, line in steps.items():
        if "loss" in line:
            values = [line.get(key) for key in columns.values()]
            writer.writerow([step, *("" if value is None else round(value, 5) for value in values)])
    return text.getvalue()
