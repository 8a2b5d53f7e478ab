"""What a model knows of plain Russian: loss on prose, and questions with four choices. Both texts are our own, CC0."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from train.core.progress import track
from train.evaluation.intervals import Interval, Side, cluster_interval, mcnemar, wilson

PROSE = Path(__file__).with_name("plain_russian.txt")
QUESTIONS = Path(__file__).with_name("questions.jsonl")
KNOWS_ENOUGH = 0.4
"""Share of right answers below which a base guesses (a quarter is right by chance), and nothing can be forgotten."""


class Knowledge(NamedTuple):
    """What one model makes of both texts."""

    nats: list[float]
    """Loss of each paragraph."""
    tokens: list[int]
    """Its tokens without the first."""
    right: list[bool]
    """Of each question, whether the right choice is the likeliest."""


class Forgetting(NamedTuple):
    """Plain Russian before and after training."""

    base_loss: Interval
    """Nats a token."""
    tuned_loss: Interval
    loss_change: Interval
    """Tuned less base, paragraph by paragraph."""
    base_right: Interval
    """Share of the questions."""
    tuned_right: Interval
    p: float | None
    """McNemar's, that as many answers turned wrong as turned right; None where the base does not know enough."""


@cache
def prose() -> tuple[str, ...]:
    """The paragraphs of PROSE."""
    return tuple(PROSE.read_text(encoding="utf-8").strip().split("\n\n"))


@cache
def questions() -> tuple[tuple[str, tuple[str, ...], int], ...]:
    """(question, its choices, index of the right one) of QUESTIONS."""
    records = map(json.loads, QUESTIONS.read_text(encoding="utf-8").strip().split("\n"))
    return tuple((record["question"], tuple(record["choices"]), record["answer"]) for record in records)


def measure_knowledge(model: Any, tokenizer: Any, name: str) -> Knowledge:
    """Both texts through the model, as plain text without a chat template; `name` stands in the progress."""
    nats, tokens = [], []
    for paragraph in track(prose(), f"plain Russian, {name}", len(prose())):
        ids = tokenizer(paragraph)["input_ids"]
        nats.append(_nats(model, [ids], [1])[0])
        tokens.append(len(ids) - 1)
    right = []
    for question, choices, answer in track(questions(), f"questions, {name}", len(questions())):
        begun = tokenizer(f"Вопрос: {question}\nОтвет:")["input_ids"]
        rows = [[*begun, *tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]] for choice in choices]
        losses = _nats(model, rows, [len(begun)] * len(rows))
        scores = [loss / len(choice) for loss, choice in zip(losses, choices, strict=True)]  # nats a character
        right.append(min(range(len(scores)), key=scores.__getitem__) == answer)
    return Knowledge(nats, tokens, right)


def _nats(model: Any, rows: Sequence[list[int]], starts: Sequence[int]) -> list[float]:
    """Loss of each row from its start on, in nats, all in one batch."""
    import torch
    from torch.nn.functional import cross_entropy

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask).logits
    return [
        cross_entropy(logits[at, start - 1 : len(row) - 1].float(), ids[at, start : len(row)], reduction="sum").item()
        for at, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]


def compare_knowledge(base: Knowledge, tuned: Knowledge) -> Forgetting:
    """Both models' knowledge with intervals over paragraphs and questions."""
    paragraphs = range(len(base.tokens))
    before, after, tokens = (Side(values, paragraphs) for values in (base.nats, tuned.nats, base.tokens))
    losses = [cluster_interval([side, tokens], lambda nats, count: nats / count) for side in (before, after)]
    change = cluster_interval([before, after, tokens], lambda b, a, count: (a - b) / count)
    assert losses[0] and losses[1] and change
    shares = [wilson(sum(side.right), len(side.right)) for side in (base, tuned)]
    p = mcnemar(base.right, tuned.right) if shares[0].value >= KNOWS_ENOUGH else None
    return Forgetting(losses[0], losses[1], change, shares[0], shares[1], p)
