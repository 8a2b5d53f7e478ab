"""A request → the config of one run, and what `auto` means."""

import math
from pathlib import Path
from typing import Any

import yaml

from train.core.config import Config, load_config
from train.core.errors import ConfigError
from train.core.files import write_atomically
from train.jobs.bases import merge
from train.jobs.wire import Hyperparameters

CLIENTS = {
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
"""What a client may set of a config. Everything else is the server's: paths, code to run, networks, devices."""
ELSEWHERE = {
    "num_train_epochs": "hyperparameters.n_epochs",
    "seed": "seed",
    "name_or_path": "model",
    "train_file": "training_file",
    "eval_file": "validation_file",
}
"""Keys of a config that the API has a name of its own for."""


def check_client_config(sections: dict[str, Any]) -> None:
    """ConfigError where a client's config holds what is not a client's to set."""
    for section, values in sections.items():
        if section not in CLIENTS:
            raise ConfigError(f"govor.{section}: a job may set {', '.join(CLIENTS)}")
        if not isinstance(values, dict):
            raise ConfigError(f"govor.{section}: expected an object")
        for key in values:
            if key in ELSEWHERE:
                raise ConfigError(f"govor.{section}.{key}: the request's own {ELSEWHERE[key]} says it")
            if key not in CLIENTS[section]:
                allowed = ", ".join(sorted(CLIENTS[section]))
                raise ConfigError(f"govor.{section}.{key}: not a client's to set; a job may set {allowed}")


def resolve(asked: Hyperparameters, config: Config, rows: int) -> Hyperparameters:
    """`auto` as numbers: epochs by OpenAI's rule, the recipe's rows a step, the recipe's learning rate."""
    batch = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    return Hyperparameters(
        n_epochs=auto_epochs(rows) if asked.n_epochs == "auto" else asked.n_epochs,
        batch_size=min(batch, rows, 256) if asked.batch_size == "auto" else asked.batch_size,
        learning_rate_multiplier=1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier,
    )


def auto_epochs(rows: int) -> int:
    """About 3, more for few rows and fewer for many: OpenAI's published rule."""
    if rows * 3 < 100:
        return min(25, 100 // max(rows, 1))
    return max(1, 25_000 // rows) if rows * 3 > 25_000 else 3


def run_tree(tree: dict[str, Any], job: str, train_file: Path, eval_file: Path | None, seed: int) -> dict[str, Any]:
    """A job's sections with what every job has: its name, files, seed, a line a step, every epoch's checkpoint."""
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
    return merge({"data": {"eval_fraction": 0.0}}, merge(tree, {"name": job, "data": data, "training": training}))


def with_numbers(tree: dict[str, Any], config: Config, chosen: Hyperparameters) -> dict[str, Any]:
    """The sections with resolved hyperparameters; a step's rows are split into what one forward pass holds."""
    assert chosen.n_epochs != "auto" and chosen.batch_size != "auto" and chosen.learning_rate_multiplier != "auto"
    most = min(config.training.per_device_train_batch_size, chosen.batch_size)
    at_once = next(size for size in range(most, 0, -1) if chosen.batch_size % size == 0)
    training = {
        "num_train_epochs": chosen.n_epochs,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": chosen.batch_size // at_once,
        "learning_rate": config.training.learning_rate * chosen.learning_rate_multiplier,
    }
    return merge(tree, {"training": training})


def total_steps(config: Config, rows: int) -> int:
    """Optimizer steps of a run over so many rows, in one process."""
    training = config.training
    most = getattr(training, "max_steps", None)
    if most is not None and most > 0:
        return int(most)
    return math.ceil(training.num_train_epochs * steps_an_epoch(config, rows))


def steps_an_epoch(config: Config, rows: int) -> int:
    passes = math.ceil(rows / config.training.per_device_train_batch_size)
    return max(1, math.ceil(passes / config.training.gradient_accumulation_steps))


def write_config(path: Path, tree: dict[str, Any]) -> Config:
    """The sections as a config file, read back and checked; ConfigError without the server's paths."""
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


def shown(tree: dict[str, Any]) -> dict[str, Any]:
    """The sections that a job object shows: without the server's paths."""
    sections = {key: value for key, value in tree.items() if key in ("lora", "training", "generation")}
    model = {key: value for key, value in tree.get("model", {}).items() if key != "name_or_path"}
    return sections | {"model": model}
