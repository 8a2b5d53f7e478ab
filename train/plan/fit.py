"""What fits a card: `training.fit: auto`, and the smallest change where something does not fit.

The rule: 16-bit weights if they fit, then the least recomputation, then the largest batch. The effective batch stays as
the config has it. Sizes are estimates (memory.py), so a reserve is kept (`Gpu.usable`).
"""

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from train.chats.rows import Row
from train.core.config import Config
from train.core.errors import ConfigError, MachineError
from train.core.runs import RUNS, Run
from train.plan.estimate import Gpu
from train.plan.memory import GIB, Workload, memory, workload_of
from train.plan.shapes import read_shapes
from train.plan.tokens import count_tokens

CHOSEN = (
    "model.load_in_4bit",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.per_device_eval_batch_size",
    "training.activation_checkpointing",
)
"""What `training.fit: auto` settles."""
PAIRED = {CHOSEN[1]: CHOSEN[2], CHOSEN[2]: CHOSEN[1]}  # one without the other would change the effective batch
Options = dict[str, Any]
"""Options by their dotted names: {"model.load_in_4bit": True}."""


def fit(config: Config, gpu_bytes: int, workload: Workload) -> Options:
    """The values of `CHOSEN` for a card of that memory; MachineError where no choice fits."""
    usable = Gpu("", gpu_bytes, None).usable
    for quantised in (False, True):
        if quantised and not _may_quantise(config):
            break
        for checkpointing in (False, True):
            for batch, accumulation in _batches(config):
                values = (quantised, batch, accumulation, 1, checkpointing)
                change = dict(zip(CHOSEN, values, strict=True))
                if memory(with_options(config, change), workload).peak <= usable:
                    return change | _evaluation(config, change, usable, workload)
    least = memory(with_options(config, change), workload)
    raise MachineError(
        f"{config.model.name_or_path} does not fit {format_gib(gpu_bytes)} (usable: {format_gib(usable)}): "
        f"{'4-bit, ' if quantised and _may_quantise(config) else ''}one row at a time and with checkpointing it needs "
        f"{format_gib(least.peak)}, {format_gib(least.weights)} of it for weights, the longest row has "
        f"{workload.longest} tokens: choose a smaller base or a shorter training.max_length"
    )


def settle_fit(config: Config, gpu_bytes: int | None, workload: Workload) -> tuple[Config, str]:
    """(the config with `training.fit` carried out, what was chosen in a line); `gpu_bytes` is None without a GPU."""
    settled = with_options(config, {"training.fit": None})
    if gpu_bytes is None:
        return settled, "training.fit: there is no CUDA GPU to fit, the config stays as it is"
    change = fit(config, gpu_bytes, workload)
    needs = memory(with_options(config, change), workload).peak
    return with_options(
        settled, change
    ), f"training.fit for {format_gib(gpu_bytes)}: {describe_change(change)} (about {format_gib(needs)})"


def fit_to_rows(
    config: Config, base: Path, rows: Sequence[Row], held_out: Sequence[Row], gpu_bytes: int | None, *, sharded: bool
) -> tuple[Config, str]:
    """Settle `training.fit` for these rows over the base in that folder; tokens are counted as `govor plan` does."""
    require_fittable(config, sharded=sharded)
    shapes = read_shapes(base)
    tokens = count_tokens(config, base, str(shapes.config.get("model_type")), rows, held_out)
    return settle_fit(config, gpu_bytes, workload_of(config, shapes, tokens.lengths, tokens.held_out))


def as_begun(config: Config) -> Config:
    """The config of a resumed run, `training.fit` carried out as when the run began, so that nothing changes."""
    saved = Run(RUNS / config.name).config_file
    if config.training.fit is None or not saved.is_file():
        return config
    before = yaml.safe_load(saved.read_text(encoding="utf-8"))
    change = {name: before[name.split(".")[0]][name.split(".")[1]] for name in CHOSEN}
    return with_options(config, change | {"training.fit": None})


def smallest_change_that_fits(
    config: Config, gpu_bytes: int, workload: Workload, *, below: int | None = None
) -> tuple[Options, int] | None:
    """(the change that costs least, bytes it then needs), None where nothing helps.

    In this order: smaller batches with as many more to accumulate, checkpointing, both, 4-bit weights, 8-bit optimizer
    states, shorter rows. `below`: a number of bytes that is known not to fit, where the estimate was too low.
    """
    limit = Gpu("", gpu_bytes, None).usable
    limit = limit if below is None else min(limit, below - 1)

    def needed(change: Options) -> int:
        changed = with_options(config, change)
        shorter = changed.training.max_length
        cut = min(workload.longest, shorter), min(workload.longest_held_out, shorter)
        return memory(changed, Workload(workload.shapes, *cut)).peak

    for change in _changes(config, workload):
        if needed(change) <= limit:
            for name in list(change):
                less = {key: value for key, value in change.items() if key not in (name, PAIRED.get(name))}
                if name in change and needed(less) <= limit:  # what only a smaller change needed
                    change = less
            return change, needed(change)
    return None


def out_of_memory_help(config: Config, gpu_bytes: int, workload: Workload, what: str) -> str:
    """One line for a card that `what` (a batch, a step) has overrun: the numbers and the smallest change."""
    parts = memory(config, workload)
    beside = parts.peak - parts.weights - parts.gradients - parts.optimizer
    line = (
        f"{what} ran out of the GPU's {format_gib(gpu_bytes)}: weights {format_gib(parts.weights)}, "
        f"gradients and optimizer {format_gib(parts.gradients + parts.optimizer)}, activations "
        f"of {workload.longest} tokens × {config.training.per_device_train_batch_size} {format_gib(beside)} (estimated)"
    )
    found = smallest_change_that_fits(config, gpu_bytes, workload, below=parts.peak)
    if found is None:
        return f"{line}: choose a smaller base"
    return f"{line}: try {describe_change(found[0])} (about {format_gib(found[1])})"


def with_options(config: Config, change: Options) -> Config:
    """The config with these options replaced."""
    sections: dict[str, Options] = {}
    for name, value in change.items():
        section, key = name.split(".")
        sections.setdefault(section, {})[key] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def describe_change(change: Options) -> str:
    """The change as it is written on the command line."""
    return " ".join(f"{name}={yaml_word(value)}" for name, value in change.items())


def yaml_word(value: object) -> str:
    """A value as YAML writes it: `true`, `2e-4`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_gib(number: int) -> str:
    """Bytes as `7.5 GiB`."""
    return f"{number / GIB:.1f} GiB"


def require_fittable(config: Config, *, sharded: bool) -> None:
    """ConfigError where `training.fit` has no meaning: under FSDP no process holds the whole model."""
    if config.training.fit and sharded:
        raise ConfigError("training.fit: auto reckons with a whole model on each GPU: for FSDP set the batch yourself")


def _may_quantise(config: Config) -> bool:
    return config.lora is not None and not config.lora.changes_base


def _batches(config: Config) -> Iterator[tuple[int, int]]:
    """(batch, accumulation) with the config's product, the largest batch first."""
    whole = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    return ((batch, whole // batch) for batch in range(whole, 0, -1) if whole % batch == 0)


def _evaluation(config: Config, change: Options, usable: int, workload: Workload) -> Options:
    """The largest batch for evaluating, at most the config's, that fits beside the choice."""
    name = "training.per_device_eval_batch_size"
    for batch in range(config.training.per_device_eval_batch_size, 1, -1):
        if memory(with_options(config, change | {name: batch}), workload).peak <= usable:
            return {name: batch}
    return {name: 1}


def _changes(config: Config, workload: Workload) -> Iterator[Options]:
    """Changes of the config that save memory, the cheapest first."""
    training = config.training
    now = training.per_device_train_batch_size
    batches: list[Options] = [{}]
    for batch, accumulation in _batches(config):
        if batch < now:
            batches.append({CHOSEN[1]: batch, CHOSEN[2]: accumulation})
    fewer = {CHOSEN[3]: 1} if training.per_device_eval_batch_size > 1 and workload.longest_held_out else {}
    checkpointing = {} if training.activation_checkpointing else {CHOSEN[4]: True}
    smallest = batches[-1] | fewer | checkpointing
    yield from batches[1:]
    yield from (batch | fewer for batch in batches if fewer)
    if checkpointing:
        yield from (batch | extra | checkpointing for extra in ({}, fewer) for batch in batches)
    quantise: Options = {CHOSEN[0]: True} if _may_quantise(config) and not config.model.load_in_4bit else {}
    if quantise:
        yield from (
            batch | extra | quantise for extra in ({}, checkpointing, fewer | checkpointing) for batch in batches
        )
    eight: Options = {} if "8bit" in training.optim else {"training.optim": "adamw_8bit"}
    if eight:
        yield smallest | eight
        yield smallest | quantise | eight
    for part in (0.75, 0.5, 0.25, 0.125):
        shorter = ceil(workload.longest * part)
        yield smallest | quantise | {"training.max_length": shorter}
        yield smallest | quantise | eight | {"training.max_length": shorter}
