"""Steps, time and money of a run.

Time: floating-point operations by the formulas of `flops`, over 20 to 45 % of the GPU's peak. The upper end is what is
published for LoRA in plain PyTorch (NeMo AutoModel on an H100: 41 to 43 %; torchtune on an RTX 4090: 44 to 56 %), the
lower end leaves room for NF4, small batches and attention without a flash kernel. A forward and backward pass takes at
least 0.5 to 2 ms a layer, which Python needs to launch its kernels (an estimate). None of it was measured by us.
"""

import re
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from train.core.config import Config
from train.core.errors import ConfigError, GovorError
from train.plan.memory import GIB, trained_shapes
from train.plan.shapes import Shapes
from train.plan.tokens import Tokens, packed_rows, padded_tokens

UTILIZATION = (0.20, 0.45)
CONTEXT = 0.6 * GIB  # of a card, for the driver and a process's CUDA context
LAUNCHES = (0.5e-3, 2e-3)  # seconds a layer and pass, at best and at worst


class Gpu(NamedTuple):
    """A graphics card: its memory and its speed."""

    name: str
    memory: int
    """Its memory in bytes."""
    tflops: float | None
    """10¹² operations a second in 16 bits; None for a card of which only the memory is known."""
    bandwidth: float | None = None
    """10⁹ bytes a second from its memory."""
    watts: float | None = None
    """Its power limit."""
    price: int | None = None
    """US dollars when it was new, by the maker's announcement; None where there was none."""

    @property
    def usable(self) -> int:
        """Bytes left for training beside the driver, the CUDA context and what fragmentation loses: 0.6 GiB and 5 %."""
        return int(self.memory * 0.95 - CONTEXT)


class Price(NamedTuple):
    """What a hosted service takes for the same tokens."""

    service: str
    model: str | None
    price: float | None
    """US dollars a million tokens; None where there is none to be had."""
    cost: float | None
    as_of: str
    source: str
    verified: bool
    note: str | None
    input: float | None = None
    """US dollars a million tokens that the tuned model is asked; None where it is not known."""
    output: float | None = None
    """US dollars a million tokens that it answers."""
    gone: str | None = None
    """Since when the model is not offered any more."""


class OwnCosts(NamedTuple):
    """What a card of one's own costs beside its price, as prices.yaml assumes."""

    electricity: float
    """US dollars a kilowatt-hour."""
    years: float
    """Years over which the card's price is spread."""


class Work(NamedTuple):
    """What a run computes: steps, passes, tokens and floating-point operations."""

    steps: int
    passes: int
    """Forward and backward passes."""
    epochs: float
    tokens: int
    """Tokens of the rows it goes over, without padding."""
    flops: float


def known_gpus() -> dict[str, Gpu]:
    """The GPUs of gpus.yaml by name."""
    table = _table("gpus.yaml")["gpus"]
    known = ("tflops", "bandwidth", "watts", "price")
    return {
        name: Gpu(name, round(entry["memory"] * GIB), *(entry.get(key) for key in known))
        for name, entry in table.items()
    }


def find_gpu(text: str) -> Gpu:
    """The GPU of that name, or one of that memory (`8GB`); GovorError lists the names."""
    gpus = known_gpus()
    wanted = _plain(text)
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)(?:gib|gb|g)", wanted):
        return Gpu(text, round(float(size[1]) * GIB), None)
    found = [gpu for gpu in gpus.values() if wanted and wanted in _plain(gpu.name)]
    same = [gpu for gpu in found if _plain(gpu.name).removeprefix("rtx") == wanted.removeprefix("rtx")]
    if len(same or found) == 1:
        return (same or found)[0]
    reason = "fits several" if found else "is not known"
    names = ", ".join(gpu.name for gpu in found or gpus.values())
    raise GovorError(f"--gpu {text!r} {reason}: give its memory, as in 8GB, or one of {names}")


def work_of(config: Config, shapes: Shapes, tokens: Tokens) -> Work:
    """Steps, passes and operations of a run, as transformers' Trainer counts them in one process."""
    training = config.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    rows = len(tokens.lengths)
    packing = bool(getattr(training, "packing", None))
    if packing:
        rows = packed_rows(tokens.lengths, training.max_length)
    batches = rows // batch if getattr(training, "dataloader_drop_last", None) else ceil(rows / batch)
    steps_an_epoch = max(1, ceil(batches / accumulation))
    max_steps = getattr(training, "max_steps", None)
    steps = max_steps if max_steps and max_steps > 0 else ceil(training.num_train_epochs * steps_an_epoch)
    epochs = steps / steps_an_epoch
    computed = tokens.total if packing else padded_tokens(tokens.lengths, batch)
    evaluations = 0.0
    if tokens.held_out and training.eval_strategy != "no":
        every = getattr(training, "eval_steps", None) or training.logging_steps
        every = every * steps if every < 1 else every
        evaluations = training.eval_on_start + (epochs if training.eval_strategy == "epoch" else steps / every)
    evaluated = padded_tokens(tokens.held_out, training.per_device_eval_batch_size) * evaluations
    document = sum(n * n for n in tokens.lengths) / max(1, tokens.total)
    return Work(
        steps=steps,
        passes=round(epochs * batches),
        epochs=epochs,
        tokens=round(epochs * tokens.total),
        flops=epochs * computed * flops(config, shapes, document) + evaluated * 2 * shapes.multiplied,
    )


def flops(config: Config, shapes: Shapes, document: float) -> float:
    """Floating-point operations a token of a training pass, over rows of `document` tokens on average.

    4 for each weight it is multiplied with (forward, and back through frozen weights), 6 for each trained one, 6 for
    every pair that attention joins; checkpointing goes forward twice.
    """
    trained = sum(s[0] * s[1] for s in trained_shapes(config, shapes) if len(s) == 2) if config.lora else 0
    attention = shapes.layers * shapes.heads * shapes.head_dim * document
    each = 4 if config.lora else 6
    again = 2 * shapes.multiplied if config.training.activation_checkpointing else 0
    return each * shapes.multiplied + 6 * trained + 6 * attention + again


def seconds(gpu: Gpu, work: Work, layers: int) -> tuple[float, float]:
    """Seconds of the work on that GPU, (at best, at worst), without loading the base."""
    peak = (gpu.tflops or 0) * 1e12
    best, worst = (
        max(work.flops / (peak * share), work.passes * layers * launch)
        for share, launch in zip(reversed(UTILIZATION), LAUNCHES, strict=True)
    )
    return best, worst


def prices(tokens: int) -> list[Price]:
    """The price table, with the cost of that many tokens."""
    found = []
    for entry in _table("prices.yaml")["prices"]:
        try:
            entry = {"note": None, **entry, "as_of": str(entry["as_of"])}
            entry["gone"] = str(entry["gone"]) if entry.get("gone") else None
            cost = None if entry["price"] is None else entry["price"] * tokens / 1e6
            found.append(Price(cost=cost, **entry))
        except (TypeError, KeyError) as error:
            raise ConfigError(f"{Path(__file__).with_name('prices.yaml')}: {entry}: {error}") from None
    return found


def own_costs() -> OwnCosts:
    """The assumptions of prices.yaml on a card of one's own."""
    try:
        return OwnCosts(**_table("prices.yaml")["own"])
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{Path(__file__).with_name('prices.yaml')}: own: {error}") from None


def _plain(name: str) -> str:
    return "".join(name.lower().replace("geforce", "").replace("nvidia", "").replace("-", "").split())


def _table(name: str) -> dict[str, Any]:
    path = Path(__file__).with_name(name)
    try:
        table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}".split("\n", 1)[0]) from None
    return table
