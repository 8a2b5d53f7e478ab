"""TRL's SFTTrainer as govor sets it up."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from .config import Config
from .errors import ConfigError, MachineError
from .model import Precision, load_base, lora_config
from .runs import Run, settle_folder
from .templates import Encoded


class Trainer(SFTTrainer):
    """Writes each checkpoint aside and renames it when everything is on disk."""

    _aside: Path | None = None
    _saved_at = -1

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._saved_at == self.state.global_step:  # asked to stop in mid-epoch: the epoch's end comes at once
            return
        self._saved_at = self.state.global_step
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._aside = folder / ".partial"
        if self.args.should_save:
            shutil.rmtree(self._aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        finally:
            aside, self._aside = self._aside, None
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            if self.state.best_global_step:
                self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")
                self.state.save_to_json(str(aside / name / "trainer_state.json"))
            settle_folder(aside / name, folder / name)
            aside.rmdir()
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: TRL would write one into the checkpoint folder at every save."""


def sft_config(config: Config, run: Run, precision: Precision, *, evaluate: bool) -> Any:
    """TRL's SFTConfig: the section `training`, and what govor settles itself."""
    training = config.training
    fields = {name: getattr(training, name) for name in type(training).model_fields}
    given = {name: value for name, value in fields.items() if value is not None or name in training.model_fields_set}
    given |= {
        "output_dir": str(run.checkpoints),
        "bf16": precision.autocast == "bf16",
        "fp16": precision.autocast == "fp16",
        "assistant_only_loss": False,  # the rows come with labels, see templates.py
        "disable_tqdm": True,
    }
    if not evaluate:
        given |= {"eval_strategy": "no", "eval_on_start": False}
    if "activation_checkpointing" not in SFTConfig.__dataclass_fields__:  # transformers < 5.20
        given["gradient_checkpointing"] = given.pop("activation_checkpointing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return SFTConfig(**given)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"training: {str(error).strip()}") from None


def build_trainer(
    config: Config,
    base: Path,
    tokenizer: Any,
    precision: Precision,
    arguments: Any,
    train_set: list[Encoded],
    eval_set: list[Encoded],
) -> Any:
    """Base, adapter and rows in TRL's trainer."""
    disable_progress_bars()

    def dataset(encoded: list[Encoded]) -> Any:
        return Dataset.from_dict({"input_ids": [e.input_ids for e in encoded], "labels": [e.labels for e in encoded]})

    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    model = load_base(config.model, base, precision, use_cpu=config.training.use_cpu, sharded=sharded)
    try:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=dataset(train_set),
            eval_dataset=dataset(eval_set) if eval_set else None,
            processing_class=tokenizer,
            peft_config=lora_config(config.lora) if config.lora else None,
        )
    except ValueError as error:  # no layer of that name, a combination that TRL refuses, …
        raise ConfigError(str(error).strip().split("\n", 1)[0]) from None
    if config.model.load_in_4bit:
        for parameter in trainer.model.parameters():  # TRL has put the adapter, and so Adam's sums, into bfloat16
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
    return trainer


def raise_out_of_memory(error: Exception, config: Config) -> None:
    """MachineError with what to change, where the error is the GPU's memory."""
    if not isinstance(error, torch.OutOfMemoryError):
        return
    training = config.training
    ways = []
    if training.per_device_train_batch_size > 1:
        half = training.per_device_train_batch_size // 2
        accumulation = training.gradient_accumulation_steps * 2
        ways.append(f"training.per_device_train_batch_size={half} training.gradient_accumulation_steps={accumulation}")
    if not training.activation_checkpointing:
        ways.append("training.activation_checkpointing=true")
    if not config.model.load_in_4bit and config.lora:
        ways.append("model.load_in_4bit=true")
    ways.append(f"training.max_length={training.max_length // 2}")
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    raise MachineError(f"the GPU's {total:.0f} GiB ran out: try {', or '.join(ways)}") from None
