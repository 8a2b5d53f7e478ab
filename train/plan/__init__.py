"""govor plan: what a run needs, before anything runs. Reads config.json and the rows; loads no weights and no torch."""

from dataclasses import dataclass
from math import prod
from typing import Any

from train.chats.pairs import read_pair_split
from train.chats.split import read_split
from train.core.config import Config
from train.core.errors import DataError
from train.plan.answering import Answering, Request, hosted, own, request_of, smallest_card
from train.plan.estimate import Gpu, Price, Work, known_gpus, prices, seconds, work_of
from train.plan.fit import Options, settle_fit, smallest_change_that_fits
from train.plan.memory import Memory, Workload, memory, trained_shapes, workload_of
from train.plan.shapes import Shapes, find_shapes
from train.plan.tokens import Tokens, both_answers, count_tokens
from train.plan.verbs import Need, needs


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
    """The config as it would run: with `training.fit` carried out where a card was given."""
    shapes: Shapes
    tokens: Tokens
    trained: int
    """How many parameters are trained."""
    memory: Memory
    needs: list[Need]
    """What each verb of the way needs on the card; empty on a CPU."""
    work: Work
    cards: list[Card]
    """The requested GPU, those with the requested memory, or all that are known; none on a CPU."""
    requested_gpu: Gpu | None
    fit_choice: str | None
    """What `training.fit` has chosen, in a line."""
    smallest_change: tuple[Options, int] | None
    """The smallest change that fits and the bytes it needs, where the requested GPU is too small."""
    prices: list[Price]
    request: Request
    """The size of a request, by the rows."""
    answering: list[Answering]
    """What requests cost on one's own card, the requested one or the smallest that does, and at hosted services."""

    @property
    def fits(self) -> bool | None:
        """Whether the run fits the requested GPU; None without one."""
        return self.memory.peak <= self.requested_gpu.usable if self.requested_gpu else None


def plan(config: Config, gpu: Gpu | None = None) -> Plan:
    """The plan of a config, for one GPU or for all that are known."""
    shapes, folder = find_shapes(config.model)
    split = read_split(config)
    rows, held_out = split.train, split.held_out
    family = str(shapes.config.get("model_type"))
    tokens = count_tokens(config, folder, family, rows, held_out)
    if config.dpo:
        pairs = read_pair_split(config)
        others = ([pair.other for pair in side] for side in (pairs.train, pairs.held_out))
        tokens = both_answers(tokens, count_tokens(config, folder, family, *others))
    if not tokens.lengths:
        raise DataError(f"{config.data.train_file}: no row is left to train on")
    workload = workload_of(config, shapes, tokens.lengths, tokens.held_out)
    gpu = None if config.training.use_cpu else gpu
    chosen = None
    if config.training.fit and (gpu or config.training.use_cpu):
        config, chosen = settle_fit(config, gpu.memory if gpu else None, workload)
    work, needed = work_of(config, shapes, tokens), memory(config, workload)
    too_large = gpu is not None and needed.peak > gpu.usable
    change = smallest_change_that_fits(config, gpu.memory, workload) if gpu and too_large else None
    cards = [] if config.training.use_cpu else _cards(gpu)
    request, table = request_of(tokens), prices(work.tokens)
    asked = cards if gpu else smallest_card(cards, config, shapes)
    return Plan(
        config=config,
        shapes=shapes,
        tokens=tokens,
        trained=sum(map(prod, trained_shapes(config, shapes))),
        memory=needed,
        needs=[] if config.training.use_cpu else needs(config, workload, needed),
        work=work,
        cards=[_card(card, needed, work, shapes) for card in cards],
        requested_gpu=gpu,
        fit_choice=chosen,
        smallest_change=change,
        prices=table,
        request=request,
        answering=[*own(request, config, shapes, asked), *hosted(request, table)],
    )


def _cards(gpu: Gpu | None) -> list[Gpu]:
    """The card, or where only its memory is given those that have as much; all without one."""
    known = list(known_gpus().values())
    if gpu is None or gpu.tflops:
        return [gpu] if gpu else known
    return [card for card in known if abs(card.memory - gpu.memory) <= gpu.memory / 10] or [gpu]


def _card(gpu: Gpu, needed: Memory, work: Work, shapes: Shapes) -> Card:
    time = seconds(gpu, work, shapes.layers) if gpu.tflops else None
    return Card(gpu, needed.peak <= gpu.usable, time)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs: bytes, tokens, seconds, US dollars."""
    tokens, work = plan.tokens, plan.work
    return {
        "name": plan.config.name,
        "base": {"name_or_path": plan.config.model.name_or_path, "shapes_from": plan.shapes.source},
        "parameters": {"all": plan.shapes.parameters, "trainable": plan.trained},
        "memory": {**plan.memory._asdict(), "weights": plan.memory.weights, "peak": plan.memory.peak},
        "verbs": [
            {**need._asdict(), "fits": plan.requested_gpu and need.bytes <= plan.requested_gpu.usable}
            for need in plan.needs
        ],
        "tokens": {
            "rows": len(tokens.lengths),
            "held_out_rows": len(tokens.held_out),
            "epoch": tokens.total,
            "epoch_trained": tokens.trained,
            "run": work.tokens,
            "run_trained": round(tokens.trained * work.epochs),
            "longest_row": max(tokens.lengths),
            "too_long": tokens.too_long,
            "how": tokens.how,
        },
        "steps": work.steps,
        "epochs": work.epochs,
        "flops": work.flops,
        "gpu": None
        if plan.requested_gpu is None
        else {
            **plan.requested_gpu._asdict(),
            "usable": plan.requested_gpu.usable,
            "fits": plan.fits,
            "change": plan.smallest_change and {"options": plan.smallest_change[0], "peak": plan.smallest_change[1]},
        },
        "fit": plan.fit_choice,
        "gpus": [
            {"name": card.gpu.name, "memory": card.gpu.memory, "fits": card.fits, "seconds": card.seconds}
            for card in plan.cards
        ],
        "prices": [price._asdict() for price in plan.prices],
        "request": plan.request._asdict(),
        "answering": [answering._asdict() for answering in plan.answering],
    }


__all__ = ["Plan", "Workload", "plan", "plan_to_json"]
