"""What govor's trainers of rows and of pairs have in common: checkpoints written aside, an eye on each step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from train.core.config import Kernel
from train.core.files import settle_folder
from train.core.runs import PARTIAL, clear_partial_checkpoint, rotate_checkpoints
from train.tuning.divergence import Divergence
from train.tuning.kernels.batches import ByLength, lengths

TrainerBelow: Any = object  # at run time one of TRL's


class CommonTrainer(TrainerBelow):
    """Stands above a class of `compat.trainer_class`, whose hooks it fills."""

    kernels: frozenset[Kernel] = frozenset()
    """Kernels that run, see kernels/."""
    initial_adapter: dict[str, Any] | None = None
    """The adapter before the first step, where its initialization has taken a part out of the base's weights."""
    lr_scheduler: Any
    divergence: Divergence | None = None
    """Looks at every step."""
    _aside: Path | None = None
    _saved_at = -1

    def __init__(self, *more: Any, **named: Any) -> None:
        super().__init__(*more, **named)
        # transformers' own would delete copies of checkpoints too that were put by under other names
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        # Sums of train and eval since the last line, see `log` of each trainer
        self.counts: dict[str, torch.Tensor] = {}

    def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        loss = super().training_step(model, inputs, *more, **named)
        if self.divergence:
            self.divergence.saw(loss, inputs)
        return loss

    def saw_gradient(self, norm: Any) -> None:
        if self.divergence:
            self.divergence.saw_gradient(norm)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Trainer's, whose warm-up would make the first step one of size 0: here it is half as long as the second."""
        there: Any = self.lr_scheduler
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if there is None and isinstance(scheduler, LambdaLR):
            scheduler = self.lr_scheduler = begun_above_zero(scheduler)
        return scheduler

    def train_sampler(self, rows: Any) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return None
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ByLength(lengths(rows), batch, seed)

    def checkpoint_folder(self) -> Path:
        return self._aside or Path(self.args.output_dir)

    def save_checkpoint(self, save: Callable[[], None]) -> None:
        if self._saved_at == self.state.global_step:  # asked to stop in mid-epoch: the epoch's end comes at once
            return
        self._saved_at = self.state.global_step
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._aside = folder / PARTIAL
        if self.args.should_save:
            clear_partial_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        try:
            save()
        finally:
            aside, self._aside = self._aside, None
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            if self.state.best_global_step:
                self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")
                self.state.save_to_json(str(aside / name / "trainer_state.json"))
            settle_folder(aside / name, folder / name)
            aside.rmdir()
            rotate_checkpoints(folder, self.save_total_limit, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: TRL would write one into the checkpoint folder at every save."""


def begun_above_zero(scheduler: LambdaLR) -> LambdaLR:
    """The schedule, but where it begins at 0 it begins at half of its second step, or at the peak if that is 0 too."""

    def from_above(factor: Callable[[int], float]) -> Callable[[int], float]:
        def at(step: int) -> float:
            try:
                return factor(step)
            except ZeroDivisionError:  # transformers' polynomial, where every step is one of warm-up
                return 0.0

        return lambda step: at(step) if step or at(0) else at(1) / 2 or 1.0

    for group, peak in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = peak
    return LambdaLR(scheduler.optimizer, [from_above(factor) for factor in scheduler.lr_lambdas])
