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
BATCH_TOKENS = 512
"""Logits of so many tokens fit anywhere: 270 MB for a vocabulary of 262,144 in 16 bits."""
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
    paragraphs = [tokenizer(paragraph)["input_ids"] for paragraph in prose()]
    nats = _nats(model, paragraphs, [1] * len(paragraphs), f"plain Russian, {name}")
    rows, starts = [], []
    for question, choices, _ in questions():
        begun = tokenizer(f"Вопрос: {question}\nОтвет:")["input_ids"]
        rows += [[*begun, *tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]] for choice in choices]
        starts += [len(begun)] * len(choices)
    losses = iter(_nats(model, rows, starts, f"questions, {name}"))
    right = []
    for _, choices, answer in questions():
        scores = [next(losses) / len(choice) for choice in choices]  # nats a character
        right.append(min(range(len(scores)), key=scores.__getitem__) == answer)
    return Knowledge(nats, [len(ids) - 1 for ids in paragraphs], right)


def _nats(model: Any, rows: Sequence[list[int]], starts: Sequence[int], what: str) -> list[float]:
    """Loss of each row from its start on, in nats; rows of like length go through the model together."""
    import torch
    from torch.nn.functional import cross_entropy

    nats = [0.0] * len(rows)
    batches = _batches(list(map(len, rows)))
    for batch in track(batches, what, len(batches)):
        width = len(rows[batch[-1]])
        padded = [[*rows[at], *[0] * (width - len(rows[at]))] for at in batch]
        mask = [[1] * len(rows[at]) + [0] * (width - len(rows[at])) for at in batch]
        ids = torch.tensor(padded, device=model.device)
        with torch.inference_mode():
            logits = model(ids, attention_mask=torch.tensor(mask, device=model.device)).logits
        for place, at in enumerate(batch):
            start, end = starts[at], len(rows[at])
            predicted = logits[place, start - 1 : end - 1].float()
            nats[at] = cross_entropy(predicted, ids[place, start:end], reduction="sum").item()
    return nats


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the rows in batches, shortest first, each of BATCH_TOKENS at most with its padding, or of one row."""
    batches: list[list[int]] = [[]]
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[at] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(at)
    return batches


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
