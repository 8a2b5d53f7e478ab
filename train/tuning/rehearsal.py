"""Whether the longest batches fit the memory, found out before the first step."""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from train.core.config import Config
from train.core.errors import BaseError, ConfigError, MachineError
from train.plan.fit import out_of_memory_help
from train.plan.memory import Workload, memory, workload_of
from train.plan.shapes import read_shapes
from train.tuning.kernels.batches import lengths


def may_run_out_of_memory(trainer: SFTTrainer, config: Config, base: Path) -> bool:
    """True on a GPU; on a CPU where the planned peak is more than half of the memory that is free.

    There a rehearsal costs as much as two steps, and the plan is within a third of what was measured.
    """
    if trainer.args.device.type != "cpu":
        return True
    try:
        return bool(2 * memory(config, workload(trainer, config, base)).peak > psutil.virtual_memory().available)
    except (BaseError, ConfigError):  # a base whose shapes cannot be read without loading it
        return True


class Rehearsal(TrainerCallback):
    """Before the first step: the longest training batch forward and back, the longest evaluation batch forward.

    What would run out of memory in hours does so now. Nothing is learned, and no random number is used up.
    """

    def __init__(self, trainer: SFTTrainer, config: Config, base: Path) -> None:
        self.trainer, self.config, self.base = trainer, config, base

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        trainer, devices = self.trainer, [args.device] if args.device.type == "cuda" else []
        tokens, model = trainer.trained_tokens, trainer.model_wrapped
        trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
        # The optimizer takes its memory at the first step: until then something as large stands in for it
        needed = 0 if trainer.optimizer.state else self._optimizer_bytes()
        stand_in = torch.empty(needed, dtype=torch.uint8, device=args.device)
        with torch.random.fork_rng(devices):
            with self._naming("evaluation", trainer.eval_dataset, args.per_device_eval_batch_size) as batch:
                if batch is not None:
                    model.eval()
                    trainer.prediction_step(model, batch, prediction_loss_only=True)
            with self._naming("training", trainer.train_dataset, args.per_device_train_batch_size) as batch:
                trainer.training_step(model, batch)
        del stand_in
        model.zero_grad()
        trainer.trained_tokens = tokens
        trainer.clear_metrics()
        trainer.counts.clear()

    def _optimizer_bytes(self) -> int:
        """Two numbers a trained weight, as Adam keeps; none where they are paged out of the GPU."""
        name = self.config.training.optim
        each = 0 if "paged" in name else 2 if "8bit" in name else 8
        return each * sum(int(p.numel()) for p in self.trainer.model.parameters() if p.requires_grad)

    @contextmanager
    def _naming(self, what: str, dataset: Any, size: int) -> Iterator[Any]:
        """The batch of the longest rows, None without rows; running out of memory over it is a MachineError."""
        if not dataset:
            yield None
            return
        tokens = lengths(dataset)
        rows = heapq.nlargest(size, range(len(tokens)), key=tokens.__getitem__)
        try:
            yield self.trainer.data_collator([dataset[row] for row in rows])
        except torch.OutOfMemoryError:
            longest = f"the longest {what} batch ({len(rows)} rows of up to {tokens[rows[0]]} tokens)"
            raise out_of_memory(self.trainer, self.config, self.base, longest) from None


def out_of_memory(trainer: SFTTrainer, config: Config, base: Path, what: str) -> MachineError:
    """The error of a GPU that is too small for `what`: the numbers and the smallest change that fits."""
    total = psutil.virtual_memory().total
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return MachineError(out_of_memory_help(config, total, workload(trainer, config, base), what))


def workload(trainer: SFTTrainer, config: Config, base: Path) -> Workload:
    """What the trainer's memory depends on."""
    return workload_of(config, read_shapes(base), lengths(trainer.train_dataset), lengths(trainer.eval_dataset))
