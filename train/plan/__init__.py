"""govor plan: what a run needs, before anything runs. Reads config.json and the rows; loads no weights and no torch."""

from dataclasses import dataclass
from math import prod
from typing import Any

from train.chats.split import read_split
from train.core.config import Config
from train.core.errors import DataError
from train.plan.estimate import Gpu, Price, Work, known_gpus, prices, seconds, work
from train.plan.fit import Change, settle, smallest_change_that_fits
from train.plan.memory import Memory, Workload, memory, trained_shapes, workload_of
from train.plan.shapes import Shapes, find_shapes
from train.plan.tokens import Tokens, count_tokens


@dataclass(frozen=True)
class Card:
    """A GPU, and the run on it."""

    gpu: Gpu
    fits: bool
    seconds: tuple[float, float] | None
    """(at best, at worst); None where its speed is not known."""


@dataclass(frozen=True)
class Plan:
    """Everything that `govor plan` shows."""

    config: Config
    """As it would run: with `training.fit` carried out where a card was given."""
    shapes: Shapes
    tokens: Tokens
    trained: int
    """Parameters that are trained."""
    memory: Memory
    work: Work
    cards: list[Card]
    """The one asked for, those with the memory asked for, or all that are known; none on a CPU."""
    asked: Gpu | None
    chosen: str | None
    """What `training.fit` has chosen, in a line."""
    change: tuple[Change, int] | None
    """Where the card asked for is too small: the smallest change that fits, and the bytes then needed."""
    prices: list[Price]

    @property
    def fits(self) -> bool | None:
        """None where no card was asked for."""
        return self.memory.peak <= self.asked.usable if self.asked else None


def plan(config: Config, gpu: Gpu | None = None) -> Plan:
    """The plan of a config, for that card or for all that are known."""
    shapes, folder = find_shapes(config.model)
    rows, held_out = read_split(config)
    tokens = count_tokens(config, folder, str(shapes.config.get("model_type")), rows, held_out)
    if not tokens.lengths:
        raise DataError(f"{config.data.train_file}: no row is left to train on")
    workload = workload_of(config, shapes, tokens.lengths, tokens.held_out)
    gpu = None if config.training.use_cpu else gpu
    chosen = None
    if config.training.fit and (gpu or config.training.use_cpu):
        config, chosen = settle(config, gpu.memory if gpu else None, workload)
    done, needed = work(config, shapes, tokens), memory(config, workload)
    cards = [] if config.training.use_cpu else _cards(gpu)
    return Plan(
        config=config,
        shapes=shapes,
        tokens=tokens,
        trained=sum(map(prod, trained_shapes(config, shapes))),
        memory=needed,
        work=done,
        cards=[_card(card, needed, done, shapes) for card in cards],
        asked=gpu,
        chosen=chosen,
        change=smallest_change_that_fits(config, gpu.memory, workload) if gpu and needed.peak > gpu.usable else None,
        prices=prices(done.tokens),
    )


def _cards(gpu: Gpu | None) -> list[Gpu]:
    """The card, or where only its memory is given those that have as much; all without one."""
    known = list(known_gpus().values())
    if gpu is None or gpu.tflops:
        return [gpu] if gpu else known
    return [card for card in known if abs(card.memory - gpu.memory) <= gpu.memory / 10] or [gpu]


def _card(gpu: Gpu, needed: Memory, done: Work, shapes: Shapes) -> Card:
    time = seconds(gpu, done, shapes.layers) if gpu.tflops else None
    return Card(gpu, needed.peak <= gpu.usable, time)


def to_json(found: Plan) -> dict[str, Any]:
    """The plan for programs: bytes, tokens, seconds, US dollars."""
    tokens, done = found.tokens, found.work
    return {
        "name": found.config.name,
        "base": {"name_or_path": found.config.model.name_or_path, "shapes_from": found.shapes.source},
        "parameters": {"all": found.shapes.parameters, "trainable": found.trained},
        "memory": {**found.memory._asdict(), "weights": found.memory.weights, "peak": found.memory.peak},
        "tokens": {
            "rows": len(tokens.lengths),
            "held_out_rows": len(tokens.held_out),
            "epoch": tokens.total,
            "epoch_trained": tokens.trained,
            "run": done.tokens,
            "run_trained": round(tokens.trained * done.epochs),
            "longest_row": max(tokens.lengths),
            "too_long": tokens.too_long,
            "how": tokens.how,
        },
        "steps": done.steps,
        "epochs": done.epochs,
        "flops": done.flops,
        "gpu": None
        if found.asked is None
        else {
            **found.asked._asdict(),
            "usable": found.asked.usable,
            "fits": found.fits,
            "change": found.change and {"options": found.change[0], "peak": found.change[1]},
        },
        "fit": found.chosen,
        "gpus": [
            {"name": card.gpu.name, "memory": card.gpu.memory, "fits": card.fits, "seconds": card.seconds}
            for card in found.cards
        ],
        "prices": [price._asdict() for price in found.prices],
    }


__all__ = ["Workload", "Plan", "plan", "to_json"]
