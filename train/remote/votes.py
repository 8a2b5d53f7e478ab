"""Votes on a comparison: which two answers are shown, what was said of them, and what that tells of the models.

compare/NAME/votes.jsonl holds a vote a line: {"pair": hash, "said": "first", "second", "tie" or "skip"}; the last on a
pair counts, and {"revealed": time} ends them. compare/NAME/preferences.jsonl has the decided pairs in OpenAI's form.
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from train.chats.row_formats import Preference, preference_to_object
from train.chats.rows import Message
from train.core.files import append_json, write_atomically
from train.core.runs import now
from train.evaluation.intervals import Interval, wilson
from train.remote.answers import Compared

Said = Literal["first", "second", "tie", "skip"]
RESAMPLES = 1000
ELO = 400 / math.log(10)
"""Points for a unit of log odds, as in chess."""


class Pair(NamedTuple):
    """Two models' answers to a prompt, in the order of the texts: it is the same in whatever order models are named."""

    key: str
    """Hash of the prompt and both answers: a vote holds for what was seen."""
    prompt: int
    messages: list[Message]
    models: tuple[str, str]
    texts: tuple[str, str]
    swapped: bool
    """Whether the second answer is shown first."""


def pairs_of(compared: Compared) -> list[Pair]:
    """The pairs to vote on, every prompt once before any comes again; the order and the sides are a fixed chance.

    Left out are pairs of which an answer is missing, and of equal answers: those are ties without a look.
    """
    found: dict[int, list[Pair]] = {}
    duels = list(combinations(compared.answers, 2))
    for at, messages in enumerate(compared.prompts):
        for models in duels:
            said = sorted(((compared.answers[model][at] or "").strip(), model) for model in models)
            texts, ordered = (said[0][0], said[1][0]), (said[0][1], said[1][1])
            if not all(texts) or texts[0] == texts[1]:
                continue
            key = hashlib.sha256(json.dumps([messages, texts], ensure_ascii=False).encode()).hexdigest()[:24]
            swapped = random.Random(f"{compared.folder.name} {key}").random() < 0.5
            found.setdefault(at, []).append(Pair(key, at, messages, ordered, texts, swapped))
    prompts = list(found)
    random.Random(compared.folder.name).shuffle(prompts)
    rounds = range(len(duels))
    return [found[at][(place + turn) % len(found[at])]
            for turn in rounds for place, at in enumerate(prompts) if turn < len(found[at])]  # fmt: skip


def equal_answers(compared: Compared, models: tuple[str, str]) -> int:
    """How often two models have said the same, word for word."""
    both = zip(*(compared.answers[model] for model in models), strict=True)
    return sum(bool(one and other and one.strip() == other.strip() != "") for one, other in both)


class Votes:
    """The votes on a comparison, in memory and in the file that they are appended to."""

    def __init__(self, pairs: Sequence[Pair], file: IO[str]) -> None:
        self.pairs, self._file = pairs, file
        self.said: dict[str, Said] = {}
        """Key of a pair → the last vote on it; "first" is the first model, wherever it was shown."""
        self.revealed = False
        self._order: list[str] = []
        file.seek(0)
        lines = file.read().split("\n")
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # what a kill has left of a last line
        if lines[-1]:
            file.write("\n")

    def _take(self, entry: Mapping[str, Any]) -> None:
        self.revealed |= "revealed" in entry
        if "pair" in entry:
            self.said[entry["pair"]] = entry["said"]
            self._order = [key for key in self._order if key != entry["pair"]] + [entry["pair"]]

    def next(self) -> int | None:
        """Number of the first pair without a vote; None where there is none."""
        return next((at for at, pair in enumerate(self.pairs) if pair.key not in self.said), None)

    def before(self, at: int | None) -> int | None:
        """Number of the pair that was voted on before this one; None where there is none."""
        numbers = {pair.key: number for number, pair in enumerate(self.pairs)}
        voted = [numbers[key] for key in self._order if key in numbers]
        if at in voted:
            voted = voted[: voted.index(at)]
        return voted[-1] if voted else None

    def vote(self, at: int, said: Said) -> None:
        self._append({"pair": self.pairs[at].key, "said": said})

    def reveal(self) -> None:
        self._append({"revealed": now()})

    def counted(self) -> list[tuple[Pair, float]]:
        """(pair, 1 for its first model, 0 for its second, 0.5 for a tie) of each vote that says something."""
        values = {"first": 1.0, "second": 0.0, "tie": 0.5}
        said = ((pair, values.get(self.said.get(pair.key, "skip"))) for pair in self.pairs)
        return [(pair, value) for pair, value in said if value is not None]

    def _append(self, entry: dict[str, Any]) -> None:
        append_json(self._file, entry)
        self._take(entry)


def write_preferences(folder: Path, votes: Votes) -> None:
    """The pairs that were decided, as rows for preference tuning."""
    lines = []
    for pair, value in votes.counted():
        if value != 0.5:
            better, other = pair.texts if value else pair.texts[::-1]
            sides: list[list[Message]] = [[{"role": "assistant", "content": text}] for text in (better, other)]
            row = Preference(0, pair.messages, sides[0], sides[1], [], True)
            lines.append(json.dumps(preference_to_object(row), ensure_ascii=False) + "\n")
    write_atomically(folder / "preferences.jsonl", "".join(lines))


# What the votes tell


class Duel(NamedTuple):
    """Two models: how often the first was better, ties half."""

    models: tuple[str, str]
    rate: Interval | None
    """None without a vote."""
    votes: int
    ties: int


class Result(NamedTuple):
    """What votes tell of the models."""

    duels: list[Duel]
    ratings: dict[str, Interval]
    """Of three models and more: Elo points around a mean of 0, by Bradley and Terry. The best first."""
    skipped: int
    first_shown: Interval | None
    """How often the answer that was shown first was better, ties half: 50 % where the side does not matter."""


def tally(compared: Compared, votes: Votes) -> Result:
    """Win rates, and for three models and more ratings; answers that are equal word for word are ties."""
    counted = votes.counted()
    duels = []
    for models in combinations(compared.answers, 2):
        values = [
            value if pair.models == models else 1 - value for pair, value in counted if {*pair.models} == {*models}
        ]
        values += [0.5] * equal_answers(compared, models)
        rate = wilson(sum(values), len(values)) if values else None
        duels.append(Duel(models, rate, len(values), values.count(0.5)))
    outcomes = [(pair.prompt, pair.models, value) for pair, value in counted]
    ratings = bradley_terry(list(compared.answers), outcomes) if len(compared.answers) > 2 and outcomes else {}
    shown = [1 - value if pair.swapped else value for pair, value in counted]
    side = wilson(sum(shown), len(shown)) if shown else None
    return Result(duels, ratings, sum(said == "skip" for said in votes.said.values()), side)


def bradley_terry(models: Sequence[str], outcomes: Sequence[tuple[int, tuple[str, str], float]]) -> dict[str, Interval]:
    """Ratings of the models in Elo points, with bootstrap intervals over prompts, the best first.

    `outcomes`: (prompt, (one, other), 1 where the one was better, 0.5 for a tie). Bradley and Terry 1952, fitted by
    Hunter's iteration (2004); half a tie is added between every two models, or one that always wins had no rating.
    """
    number = {model: at for at, model in enumerate(models)}
    prompts = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompt for prompt, _, _ in outcomes))}
    wins = np.zeros((len(prompts), len(models), len(models)))  # [prompt, winner, loser]
    for prompt, (one, other), value in outcomes:
        wins[prompts[prompt], number[one], number[other]] += value
        wins[prompts[prompt], number[other], number[one]] += 1 - value
    chances = [1 / len(prompts)] * len(prompts)
    drawn = np.random.default_rng(0).multinomial(len(prompts), chances, RESAMPLES).astype(float)
    counts = np.concatenate([np.ones((1, len(prompts))), drawn])
    points = _ratings(np.einsum("rp,pij->rij", counts, wins))
    low, high = np.percentile(points[1:], [2.5, 97.5], axis=0)
    found = {model: Interval(*map(float, (points[0, at], low[at], high[at]))) for model, at in number.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def _ratings(wins: np.ndarray) -> np.ndarray:
    """Elo points [resample, model] from wins [resample, winner, loser]."""
    wins = wins + 0.25 * (1 - np.eye(wins.shape[1]))
    games, won = wins + wins.transpose(0, 2, 1), wins.sum(axis=2)
    strength = np.ones(won.shape)
    for _ in range(500):
        met = games / (strength[:, :, None] + strength[:, None, :])
        strength = won / met.sum(axis=2)
        strength /= np.exp(np.log(strength).mean(axis=1, keepdims=True))
    points: np.ndarray = ELO * np.log(strength)
    return points


def expected(votes: float) -> float:
    """Half the width of a win rate's interval of 95 % after so many votes, at worst, in percentage points."""
    return 100 * 1.96 * math.sqrt(0.25 / votes)


def agreement(pairs: Iterable[tuple[float, float]]) -> tuple[float, float, int]:
    """(share of equal verdicts, Cohen's kappa, number) of two voters on the same pairs; 1, 0.5 or 0 each.

    Kappa (Cohen 1960) is 0 where they agree as often as by chance.
    """
    both = list(pairs)
    same = sum(one == other for one, other in both) / len(both)
    shares = [Counter(side) for side in zip(*both, strict=True)]
    chance = sum(shares[0][value] * shares[1][value] for value in shares[0]) / len(both) ** 2
    return same, (same - chance) / (1 - chance) if chance < 1 else 1.0, len(both)
