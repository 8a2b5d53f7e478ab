"""Losses and answers of one model after another, by a run's rows, prompts and settings."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.rows import Message, Row, configured_prompts
from train.core.config import Config, Generation
from train.core.errors import GovorError
from train.core.progress import track
from train.core.runs import Run
from train.encoding.held_out import encode_held_out, held_out_rows
from train.encoding.loss_mask import IGNORE_INDEX, Encoded
from train.evaluation.generate import answer, logits_at
from train.evaluation.intervals import Interval, Side, cluster_interval
from train.evaluation.judge import Losses
from train.evaluation.judged_rows import other_rows, persona_run, trained_rows
from train.evaluation.sampling import (
    BATCH,
    AnswerFile,
    Ask,
    Prompt,
    ask_model,
    collect_answers,
    held_out_prompts,
    samples_needed,
    spread,
    that_fit,
)
from train.evaluation.style import Answer
from train.models.base import run_base
from train.models.load import load_base, load_merged, require_safe_adapter, resolve_precision


@dataclass
class Meter:
    """Measures one model after another with a run's rows, prompts and settings."""

    run: Run
    config: Config
    generation: Generation
    tokenizer: Any
    rows: list[Row]
    """Held out."""
    trained: list[Row] | None
    """None where the training file is gone or has changed."""
    samples: int | None
    """Answers to each held-out prompt; None for as many as are needed."""
    other: list[Row] | None = field(default_factory=list)
    """Rows that the run has learned besides; None where they are not known."""

    def __post_init__(self) -> None:
        self.stop = self.run.end_of_turn()
        self.file = AnswerFile(self.run.evaluation / "answers.jsonl")

    def losses(self, model: Any, when: str) -> Losses | None:
        """Over the held-out rows, and over as many training rows where those are at hand."""
        if not self.rows:
            return None
        found = score(model, track(self.encode(self.rows), f"held-out loss {when} training", len(self.rows)))
        if not math.isfinite(found.loss):
            raise GovorError(f"{self.run.path}: its held-out loss {when} training is no number: weights are damaged")
        if not (some := self.some_trained()):
            return Losses(found.loss, found.accuracy, None, len(self.rows), found.intervals)
        seen = score(model, track(self.encode(some), f"loss of training rows {when} training", len(some)))
        return Losses(found.loss, found.accuracy, seen.loss, len(self.rows), found.intervals, seen.intervals[0])

    def configured(self, model: Any, when: str) -> list[str]:
        """Answers to the config's prompts."""
        prompts = self.prompts()
        return [
            answer(model, self.tokenizer, prompt, self.generation, stop=self.stop, seed=self.config.training.seed)
            for prompt in track(prompts, f"answers {when} training", len(prompts))
        ]

    def prompts(self) -> list[list[Message]]:
        system: str | None = self.run.manifest()["data"]["system_message"]
        return [with_system(prompt, system) for prompt in configured_prompts(self.config)]

    def held_out_prompts(self, context: int) -> list[Prompt]:
        """Those that leave room for an answer in a context of so many tokens."""
        return that_fit(held_out_prompts(self.rows), self.tokenizer, context, self.generation)

    def sample(
        self, prompts: Sequence[Prompt], ask: Ask, model: object, name: str, batch_size: int = BATCH
    ) -> list[Answer]:
        """Answers to the held-out prompts; `model` tells it from every other, in the file of answers."""
        key = json.dumps(model, sort_keys=True, ensure_ascii=False)
        settings = json.dumps([self.generation.model_dump(), self.config.training.seed], sort_keys=True)
        samples = self.samples or samples_needed(len(prompts))
        return collect_answers(self.file, key, settings, prompts, samples, ask, f"answers of {name}", batch_size)

    def ask(self, model: Any) -> Ask:
        return ask_model(model, self.tokenizer, self.generation, self.stop, self.config.training.seed)

    def encode(self, rows: Sequence[Row]) -> Iterator[Encoded]:
        return encode_held_out(self.run, self.tokenizer, rows)

    def some_trained(self) -> list[Row]:
        """As many training rows as are held out, spread over all."""
        return spread(self.trained or [], len(self.rows))


def make_meter(run: Run, generation: Generation | None, tokenizer: Any, samples: int | None) -> Meter:
    """The meter of a run; `generation`: in place of the config's."""
    config, persona = run.config(), persona_run(run)
    rows = held_out_rows(persona)
    generation, trained = generation or config.generation, trained_rows(persona, rows)
    return Meter(run, config, generation, tokenizer, rows, trained, samples, other_rows(run))


class Score(NamedTuple):
    """Over trained tokens, every one alike."""

    loss: float
    """Nats a token."""
    accuracy: float
    """Share of the tokens that were the likeliest."""
    intervals: tuple[Interval | None, Interval | None] = (None, None)
    """Of both, drawn by row; None of fewer than two rows."""


def score(model: Any, rows: Iterable[Encoded]) -> Score:
    """Loss and accuracy over the rows' trained tokens; not a number where there is none."""
    import torch
    from torch.nn.functional import cross_entropy

    counts: list[tuple[float, int, int]] = []  # of each row: nats, tokens guessed, tokens
    for encoded in rows:  # one at a time: no padding, and the logits of a long row fit small cards
        labels = torch.tensor(encoded.labels[1:], device=model.device)
        kept = (labels != IGNORE_INDEX).nonzero()[:, 0]
        logits, labels = logits_at(model, encoded.input_ids, kept), labels[kept]
        nats = cross_entropy(logits, labels, reduction="sum").item()
        counts.append((nats, int((logits.argmax(-1) == labels).sum()), len(labels)))
    total, right, tokens = map(sum, zip(*counts, strict=True)) if counts else (0.0, 0, 0)
    if not tokens or not math.isfinite(total):
        return Score(float("nan"), float("nan"))
    sides = [Side(values, range(len(counts))) for values in zip(*counts, strict=True)]
    loss, accuracy = (cluster_interval([side, sides[2]], lambda made, of: made / of) for side in sides[:2])
    return Score(total / tokens, right / tokens, (loss, accuracy))


@contextmanager
def untuned(tuned: Any, run: Run, config: Config) -> Iterator[Any]:
    """The base behind the tuned model: its adapter switched off, or after full tuning the base loaded anew."""
    if run.adapter.exists():
        with tuned.disable_adapter():
            yield tuned
    else:
        tuned.to("cpu")
        yield load_base(config.model, run_base(run), resolve_precision(config), use_cpu=config.training.use_cpu).eval()


@contextmanager
def at_checkpoint(tuned: Any, run: Run, checkpoint: Path) -> Iterator[Any]:
    """The model as it was when a checkpoint was saved."""
    if not run.adapter.exists():
        yield load_merged(run, checkpoint)
        return
    require_safe_adapter(checkpoint)
    tuned.load_adapter(str(checkpoint), "checkpoint")
    tuned.set_adapter("checkpoint")
    try:
        yield tuned
    finally:
        tuned.set_adapter("default")
        tuned.delete_adapter("checkpoint")


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """The conversation under the system message that the model was trained with, unless it brings its own."""
    if system is None or messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": system}, *messages]
