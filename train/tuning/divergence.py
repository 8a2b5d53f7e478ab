"""A loss that is not finite ends training at once; a run that learned nothing, or the wrong thing, is told of."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from train.core.errors import DivergedError
from train.encoding.loss_mask import Encoded

SKIPPED_IN_A_ROW = 10
"""Steps that a loss scaler may skip one after another while it looks for its scale."""
HELP = (
    "try a lower training.learning_rate, training.max_grad_norm=1.0, and in the place of float16 bfloat16 or float32 "
    "(model.dtype, training.bf16)"
)


class Divergence(TrainerCallback):
    """Looks at every step's loss and gradient before the optimizer takes it, and at every held-out loss.

    On a CUDA device, which works behind the program, it looks at a step while the next one runs, so that nothing waits:
    the step that is spoiled has been taken by then, but nothing is saved of it.
    """

    def __init__(self, trainer: Any, train_set: Sequence[Encoded], lines: Sequence[int]) -> None:
        """`lines`: of each row of the set, in its file."""
        self.trainer, self.train_set, self.lines = trainer, train_set, lines
        self.losses: list[torch.Tensor] = []
        self.batches: list[Any] = []
        self.skipped = 0
        self._waiting: Callable[[], None] | None = None

    def saw(self, loss: torch.Tensor, batch: Any) -> None:
        """Note what a forward pass gave."""
        self.losses.append(loss.detach())
        self.batches.append(batch)

    def saw_gradient(self, norm: Any) -> None:
        """Look at the step whose gradient has this norm; DivergedError where its loss or gradient is not finite."""
        if not self.losses:
            return
        values = torch.stack([torch.as_tensor(value).float().to(self.losses[0].device).reshape(())
                              for value in (*self.losses, norm)])  # fmt: skip
        step, batches = self.trainer.state.global_step + 1, self.batches
        self.losses, self.batches = [], []
        self.look()
        if values.device.type != "cuda":
            self._judge(values.tolist(), step, batches)
            return
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def judge() -> None:
            done.synchronize()
            self._judge(copy.tolist(), step, batches)

        self._waiting = judge

    def look(self) -> None:
        """Look at the step that still waits for it, before anything is saved."""
        waiting, self._waiting = self._waiting, None
        if waiting:
            waiting()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.losses, self.batches = [], []  # the rehearsal's

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_log or control.should_save or control.should_evaluate or state.global_step >= state.max_steps:
            self.look()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.look()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        loss = (metrics or {}).get("eval_loss", 0.0)
        if not math.isfinite(loss):
            when = f"after step {state.global_step}" if state.global_step else "before the first step"
            raise DivergedError(f"the held-out loss {when} is {loss}: {HELP}")

    def _judge(self, values: list[float], step: int, batches: Sequence[Any]) -> None:
        *losses, norm = values
        if not all(map(math.isfinite, losses)):
            bad = next(number for number, loss in enumerate(losses) if not math.isfinite(loss))
            raise DivergedError(f"step {step}: the loss is {losses[bad]}{self._rows(batches[bad])}: {HELP}")
        if math.isfinite(norm):
            self.skipped = 0
            return
        if self.trainer.accelerator.scaler is not None:  # it skips the step and lowers its scale
            self.skipped += 1
            if self.skipped < SKIPPED_IN_A_ROW:
                return
            text = f"{SKIPPED_IN_A_ROW} steps in a row were skipped"
            raise DivergedError(f"step {step}: {text}, the gradient is {norm}{self._rows(batches[-1])}: {HELP}")
        raise DivergedError(f"step {step}: the gradient is {norm}{self._rows(batches[-1])}: {HELP}")

    def _rows(self, batch: Any) -> str:
        """` (rows at lines 3, 8)`; nothing where the batch holds no row whole, as packing may cut them."""
        ids = batch["input_ids"]
        if "attention_mask" in batch:
            found = [row[mask.bool()].tolist() for row, mask in zip(ids, batch["attention_mask"], strict=True)]
        else:
            starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
            flat = ids.flatten().tolist()
            found = [flat[start:end] for start, end in zip(starts, [*starts[1:], len(flat)], strict=True)]
        line_of = {tuple(row.input_ids): line for row, line in zip(self.train_set, self.lines, strict=True)}
        lines = sorted({line_of[key] for key in map(tuple, found) if key in line_of})
        return f" (rows at lines {', '.join(map(str, lines))})" if lines else ""


class Movement(TrainerCallback):
    """Whether training moved any weight: sums of the trained weights before the first step and after the last."""

    def __init__(self) -> None:
        self.moved = True
        self._before: list[float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._before = _sums(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.moved = state.global_step == 0 or _sums(model) != self._before


def _sums(model: Any) -> list[float]:
    """Of the absolute values of each trained weight; of what this process holds of it, under FSDP."""
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    local = [p.to_local() if hasattr(p, "to_local") else p for p in trained]
    sums = [p.abs().sum(dtype=torch.float32 if p.device.type == "mps" else torch.float64) for p in local]
    return [float(total) for total in torch.stack(sums).tolist()]


def warnings_of(metrics: Sequence[dict[str, Any]], *, moved: bool) -> list[str]:
    """What the lines of a finished run's metrics.jsonl say against it, one sentence each."""
    losses = [entry["loss"] for entry in metrics if "loss" in entry]
    held_out = [(entry["step"], entry["eval_loss"]) for entry in metrics if "eval_loss" in entry]
    found = []
    if not moved:
        found.append("training moved no weight: the learning rate was 0 at every step, or every gradient was")
    last = losses[1:][-10:]
    if last and sum(last) / len(last) > losses[0] + 1:
        mean = sum(last) / len(last)
        found.append(f"training loss rose from {losses[0]:.3f} to {mean:.3f}: try a lower training.learning_rate")
    if held_out and held_out[0][0] == 0 and round(held_out[-1][1], 3) > round(held_out[0][1], 3):
        found.append(
            f"held-out loss is worse than before training ({held_out[0][1]:.3f} → {held_out[-1][1]:.3f}): try fewer "
            "epochs, a lower training.learning_rate, or more rows"
        )
    return found
