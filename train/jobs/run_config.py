"""A job's request → the config of its run, and what `auto` means."""

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from train.core.config import DPO_RATE, Config, Training, load_config
from train.core.errors import ConfigError
from train.core.files import write_atomically
from train.jobs.bases import Base, merge_sections
from train.jobs.wire import DpoHyperparameters, Hyperparameters

CLIENT_KEYS = {
    "model": {"load_in_4bit"},
    "data": {"eval_fraction"},
    "lora": {"r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora"},
    "training": {
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "max_steps"),
        *("adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor", "neftune_noise_alpha"),
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_length"),
        *("activation_checkpointing", "gradient_checkpointing", "assistant_only_loss"),
    },
    "generation": {"max_new_tokens", "do_sample", "temperature", "top_p", "repetition_penalty"},
}
"""What a client may set, by section of a config. All else is the server's: paths, code to run, networks, devices."""
LARGEST: dict[str, float] = {
    "lora.r": 4096,
    "lora.lora_alpha": 2**16,
    "data.eval_fraction": 0.99,
    "training.learning_rate": 10,
    "training.max_steps": 10**7,
    "training.max_length": 2**20,
    "training.warmup_steps": 10**7,
    "training.weight_decay": 100,
    "training.max_grad_norm": 10**6,
    "training.per_device_train_batch_size": 4096,
    "training.per_device_eval_batch_size": 4096,
    "training.gradient_accumulation_steps": 4096,
    "training.neftune_noise_alpha": 1000,
    "generation.max_new_tokens": 2**20,
    "generation.temperature": 100,
    "generation.repetition_penalty": 100,
}
"""The largest number that a client may set; 1 for all others. Beyond these no training or answer comes to an end."""
MOST_MODULES = 256
"""Names that a client's target_modules may have, of at most 200 characters each."""
REQUEST_FIELDS = {
    "num_train_epochs": "hyperparameters.n_epochs",
    "seed": "seed",
    "name_or_path": "model",
    "train_file": "training_file",
    "eval_file": "validation_file",
}
"""Keys of a config that a request has a field of its own for."""


def check_client_config(sections: dict[str, Any]) -> None:
    """ConfigError where a client's sections of a config hold what is not a client's to set."""
    for section, values in sections.items():
        if section not in CLIENT_KEYS:
            raise ConfigError(f"govor.{section}: a job may set {', '.join(CLIENT_KEYS)}")
        if not isinstance(values, dict):
            raise ConfigError(f"govor.{section}: expected an object")
        for key in values:
            if key in REQUEST_FIELDS:
                raise ConfigError(f"govor.{section}.{key}: the request's own {REQUEST_FIELDS[key]} says it")
            if key not in CLIENT_KEYS[section]:
                allowed = ", ".join(sorted(CLIENT_KEYS[section]))
                raise ConfigError(f"govor.{section}.{key}: not a client's to set; a job may set {allowed}")
            _check_size(f"{section}.{key}", values[key])


def _check_size(option: str, value: Any) -> None:
    """ConfigError where a value is too large to be meant, or would keep a slot busy for good."""
    if option == "lora.target_modules":
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or len(names) > MOST_MODULES or not all(map(_is_module_name, names)):
            raise ConfigError(
                f"govor.{option}: a job may give all-linear or at most {MOST_MODULES} names of layers in a list, and "
                "no regular expression"
            )
        return
    if isinstance(value, str):  # a config takes a number that is written as text
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        largest = LARGEST.get(option, 1)
        if not abs(value) <= largest:  # true of NaN too
            raise ConfigError(f"govor.{option}: expected a number up to {largest:g}")
    elif not isinstance(value, str | bool | None) or len(str(value)) > 64:
        raise ConfigError(f"govor.{option}: expected one value")


def _is_module_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}", name) is not None


def resolve_hyperparameters(requested: Hyperparameters, config: Config, rows: int) -> Hyperparameters:
    """Put numbers for `auto`: epochs by OpenAI's rule, rows a step, learning rate and beta of the recipe."""
    multiplier = requested.learning_rate_multiplier
    batch = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    resolved = {
        "n_epochs": auto_epochs(rows) if requested.n_epochs == "auto" else requested.n_epochs,
        "batch_size": min(batch, rows, 256) if requested.batch_size == "auto" else requested.batch_size,
        "learning_rate_multiplier": 1.0 if multiplier == "auto" else multiplier,
    }
    if isinstance(requested, DpoHyperparameters):
        assert config.dpo is not None
        resolved["beta"] = config.dpo.beta if requested.beta == "auto" else requested.beta
    return requested.model_copy(update=resolved)


def auto_epochs(rows: int) -> int:
    """Number of epochs by OpenAI's published rule: about 3, more for few rows and fewer for many."""
    if rows * 3 < 100:
        return min(25, 100 // max(rows, 1))
    return max(1, 25_000 // rows) if rows * 3 > 25_000 else 3


def preference_tree(base: Base) -> dict[str, Any]:
    """The sections of a base's jobs for preference tuning: a recipe's rate is for rows, and a part of it for pairs."""
    part = DPO_RATE / Training.model_fields["learning_rate"].default
    training = {"learning_rate": base.config.training.learning_rate * part, "fit": None, "kernels": "auto"}
    return merge_sections(base.tree, {"training": training, "data": {"too_long": "error"}, "dpo": {}})


def job_tree(tree: dict[str, Any], job: str, train_file: Path, eval_file: Path | None, seed: int) -> dict[str, Any]:
    """A job's sections with what the server sets: name, files, seed, metrics of each step, a checkpoint every epoch."""
    data = {"train_file": str(train_file), "eval_file": str(eval_file) if eval_file else None}
    held_out = bool(eval_file) or bool((tree.get("data") or {}).get("eval_fraction"))
    training = {
        "seed": seed,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": None,
        "eval_strategy": "epoch" if held_out else "no",
        "eval_on_start": False,
    }
    fixed = {"name": job, "data": data, "training": training}
    return merge_sections({"data": {"eval_fraction": 0.0}}, merge_sections(tree, fixed))


def with_hyperparameters(tree: dict[str, Any], config: Config, resolved: Hyperparameters) -> dict[str, Any]:
    """The sections with resolved hyperparameters; the rows of a step are split into what one forward pass holds."""
    epochs, rows, multiplier = resolved.n_epochs, resolved.batch_size, resolved.learning_rate_multiplier
    assert epochs != "auto" and rows != "auto" and multiplier != "auto"
    largest = min(config.training.per_device_train_batch_size, rows)
    rows_a_pass = next(size for size in range(largest, 0, -1) if rows % size == 0)
    training = {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": rows_a_pass,
        "gradient_accumulation_steps": rows // rows_a_pass,
        "learning_rate": config.training.learning_rate * multiplier,
    }
    beta = {"dpo": {"beta": resolved.beta}} if isinstance(resolved, DpoHyperparameters) else {}
    return merge_sections(tree, {"training": training, **beta})


NEXT_TO_NOTHING = 0.01
"""Most that an adapter may change a layer's output, relative to it, for a warning that it learns next to nothing."""


def describe_rate(own: float, multiplier: float, config: Config, steps: int) -> tuple[str, bool]:
    """(what a multiplier makes of the base's own rate, in a sentence; whether next to nothing can be learned with it).

    `config` has the resulting rate. That it is too small shows in a bound: Adam moves a weight by about the rate in a
    step, and warm-up and decay leave half of it on average. An adapter begins with B = 0 and rows of A that give about
    1/√3 for a normalised input, so its output reaches scale · r · rate · steps / 2 / √3 at most; tuning all d × d
    weights of about 0.02 it is √d / 0.02 times rate · steps / 2, here for d = 2,560.
    """
    rate = config.training.learning_rate
    moved = rate * steps / 2
    if config.lora is None:
        reach = moved * math.sqrt(2560) / 0.02
    else:
        scale = config.lora.lora_alpha / (math.sqrt(config.lora.r) if config.lora.use_rslora else config.lora.r)
        reach = scale * config.lora.r * moved / math.sqrt(3)
    text = f"Learning rate: {own:g} × {multiplier:g} = {rate:g}"
    if reach >= NEXT_TO_NOTHING:
        return text, False
    return (
        f"{text}. This learns next to nothing: in {steps} steps it changes what a layer gives by {reach:.1g} of it at "
        "most. A learning_rate_multiplier of 1 is the base's own rate",
        True,
    )


def total_steps(config: Config, rows: int) -> int:
    """Number of optimizer steps of a run over so many rows, in one process."""
    training = config.training
    max_steps = getattr(training, "max_steps", None)
    if max_steps is not None and max_steps > 0:
        return int(max_steps)
    return math.ceil(training.num_train_epochs * steps_per_epoch(config, rows))


def steps_per_epoch(config: Config, rows: int) -> int:
    """Number of optimizer steps of an epoch over so many rows, in one process."""
    passes = math.ceil(rows / config.training.per_device_train_batch_size)
    return max(1, math.ceil(passes / config.training.gradient_accumulation_steps))


def write_config(path: Path, tree: dict[str, Any]) -> Config:
    """Write the sections as a config file, read and check it; the message of a ConfigError has none of our paths."""
    write_atomically(path, yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, width=120))
    try:
        config = load_config(path)
    except ConfigError as error:
        lines = [line.strip() for line in str(error).split("\n") if not line.endswith(" problems:")]
        text = "; ".join(line.removeprefix(f"{path}:").lstrip("0123456789: ") for line in lines)
        raise ConfigError(f"govor: {text}") from None
    if getattr(config.lora, "changes_base", False):
        raise ConfigError("govor.lora.init_lora_weights: checkpoints must fit the unchanged base")
    return config


def public_sections(tree: dict[str, Any]) -> dict[str, Any]:
    """The sections that a job object shows, without the server's paths."""
    sections = {key: value for key, value in tree.items() if key in ("lora", "training", "dpo", "generation")}
    if "start_from" in (sections.get("lora") or {}):
        sections["lora"] = {key: value for key, value in tree["lora"].items() if key != "start_from"}
    model = {key: value for key, value in tree.get("model", {}).items() if key != "name_or_path"}
    return sections | {"model": model}
