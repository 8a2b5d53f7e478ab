"""TRL's arguments from the sections `training` and `dpo`, refused before a run folder is made."""

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from transformers import Trainer, get_scheduler
from trl import DPOConfig, SFTConfig

from train.core.config import Config
from train.core.errors import ConfigError
from train.core.runs import Run
from train.models.load import Precision

OF_SFT = ("assistant_only_loss", "completion_only_loss", "loss_type")
"""Fields of SFTConfig that have a default of ours or another meaning, and that DPOConfig does without."""


def trl_arguments(config: Config, run: Run, precision: Precision, *, evaluate: bool, resumed: bool = False) -> Any:
    """TRL's SFTConfig, or DPOConfig with a section `dpo`: the config's fields, and what govor settles itself.

    `evaluate`: there are held-out rows. `resumed`: the loss before the first step is known already.
    ConfigError where TRL refuses a value, or the schedule or the optimizer would when training begins.
    """
    given = _given(config)
    given |= {
        "output_dir": str(run.checkpoints),
        "bf16": precision.autocast == "bf16",
        "fp16": precision.autocast == "fp16",
        "disable_tqdm": True,
    }
    if given.get("use_liger_kernel") and find_spec("liger_kernel") is None:
        raise ConfigError("training.use_liger_kernel: pip install liger-kernel first (it needs a GPU and Triton)")
    if not evaluate:
        given |= {"eval_strategy": "no", "eval_on_start": False}
    if resumed:
        given["eval_on_start"] = False
    if "activation_checkpointing" not in SFTConfig.__dataclass_fields__:  # transformers < 5.20
        given["gradient_checkpointing"] = given.pop("activation_checkpointing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            arguments: Any = (DPOConfig if config.dpo else SFTConfig)(**given)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: {str(error).strip()}") from None
    require_schedule(arguments)
    return arguments


def _given(config: Config) -> dict[str, Any]:
    """Fields of the config that go to TRL as they are; ConfigError names one that preference tuning has not."""
    training = config.training
    fields = {name: getattr(training, name) for name in type(training).model_fields if name not in ("fit", "kernels")}
    given = {name: value for name, value in fields.items() if value is not None or name in training.model_fields_set}
    given.setdefault("logging_nan_inf_filter", False)  # it waits for the device at every forward pass
    if config.dpo is None:
        return given | {"assistant_only_loss": False}  # the rows come with labels, see encoding/loss_mask.py
    for name in OF_SFT:
        given.pop(name, None)
    if unknown := sorted(given.keys() - DPOConfig.__dataclass_fields__.keys() - {"activation_checkpointing"}):
        raise ConfigError(f"training.{unknown[0]} belongs to rows of one answer: leave it out beside dpo")
    return given | config.dpo.model_dump() | {"remove_unused_columns": False}  # the lengths of the pairs are needed


def require_schedule(arguments: Any) -> None:
    """ConfigError where Trainer could not make the schedule or its optimizer: it makes both after the run folder."""
    weight = torch.nn.Linear(1, 1)
    try:
        get_scheduler(
            arguments.lr_scheduler_type,
            torch.optim.SGD(weight.parameters(), lr=arguments.learning_rate),
            num_warmup_steps=arguments.get_warmup_steps(10),
            num_training_steps=10,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
    except (ValueError, TypeError, AttributeError) as error:
        name = str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type))
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"training.lr_scheduler_type={name}, lr_scheduler_kwargs: {reason}") from None
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments, weight)
    except (ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        name = str(getattr(arguments.optim, "value", arguments.optim))
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"training.optim={name}, optim_args: {reason}") from None
