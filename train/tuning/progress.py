"""What a person and later verbs see of a training run: the progress bar and metrics.jsonl."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PrinterCallback, TrainerCallback

from train.core.progress import SILENCE
from train.core.runs import Run
from train.encoding.rows import Encoding
from train.tuning.divergence import Divergence, Movement


@contextmanager
def watch(trainer: Any, run: Run, train_set: Encoding) -> Iterator[tuple["StopOnSignal", Movement]]:
    """metrics.jsonl and the progress bar, in place of transformers' own output; a way to stop; an eye on the loss."""
    trainer.remove_callback(PrinterCallback)
    log, stop, movement = MetricsLog(run), StopOnSignal(), Movement()
    bar = ProgressBar(log)
    trainer.divergence = Divergence(trainer, train_set.encoded, [row.line for row in train_set.rows])
    for callback in (stop, trainer.divergence, log, bar, movement):
        trainer.add_callback(callback)
    try:
        yield stop, movement
    finally:
        bar.close()


class StopOnSignal(TrainerCallback):
    """Stops training on SIGINT and SIGTERM after the step and a save; all processes at the same step.

    Also logs before every save and evaluation: a run resumed there has lost nothing of what it was averaging, and TRL
    counts what it logs after an evaluation as part of that.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}

    def _request(self, *_: Any) -> None:
        self.requested = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            requested = torch.tensor(float(self.requested), device=args.device)
            torch.distributed.all_reduce(requested)
            self.requested = bool(requested)
        if self.requested:
            control.should_save = control.should_training_stop = True
        self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= control.should_save or control.should_evaluate

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class MetricsLog(TrainerCallback):
    """Writes metrics.jsonl; on the main process only.

    Units: `tokens_per_second` counts all tokens but padding since the last line; `memory_gib` is the peak so far of the
    GPU's allocated memory, on a CPU of the process.
    """

    NAMES = (
        *("loss", "eval_loss", "learning_rate", "grad_norm", "mean_token_accuracy", "num_tokens"),
        *(f"{held_out}rewards/{name}" for held_out in ("", "eval_") for name in ("margins", "accuracies")),
    )

    def __init__(self, run: Run) -> None:
        self.run = run
        self.since = time.perf_counter()
        self.tokens = 0.0
        self.rate: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.since = time.perf_counter()
        self.tokens = max((entry.get("num_tokens", 0) for entry in self.run.metrics()), default=0)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.since = time.perf_counter()  # time spent evaluating is not training time

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        entry = {"step": state.global_step, "epoch": round(state.epoch or 0, 4)}
        entry |= {name: logs[name] for name in self.NAMES if isinstance(logs.get(name), int | float)}
        if "num_tokens" in logs:
            now = time.perf_counter()
            self.rate = (logs["num_tokens"] - self.tokens) / max(now - self.since, 1e-9)
            self.since, self.tokens = now, logs["num_tokens"]
            entry |= {"tokens_per_second": round(self.rate, 1)}
        self.run.append_metrics(entry | {"memory_gib": round(_peak_memory(), 3)})


class ProgressBar(TrainerCallback):
    """One bar with loss, tokens/s and time left on a terminal; lines where nobody watches.

    There is one at every logging step, and one when none has come for SILENCE seconds: a step of a large model may take
    minutes.
    """

    def __init__(self, log: MetricsLog) -> None:
        self.log = log
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.loss = self.eval_loss = math.nan
        self.evaluated, self.doing = 0, ""
        self.began = self.shown = time.monotonic()
        self.ended = threading.Event()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.start()
            self.task = self.bar.add_task("train", total=state.max_steps, completed=state.global_step, numbers="")
            threading.Thread(target=self._break_silence, args=(state,), name="progress", daemon=True).start()

    def _break_silence(self, state: Any) -> None:
        while not self.ended.wait(min(1, SILENCE)):
            if time.monotonic() - self.shown >= SILENCE:
                self._show(state, f"{time.monotonic() - self.began:.0f} s")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.update(self.task, completed=state.global_step)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        self.evaluated += 1
        self.doing = f"held-out batch {self.evaluated} of {len(eval_dataloader)}"

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        if "eval_loss" in logs:
            self.evaluated, self.doing = 0, ""
        self.loss, self.eval_loss = logs.get("loss", self.loss), logs.get("eval_loss", self.eval_loss)
        self._show(state)

    def _show(self, state: Any, *more: str) -> None:
        self.shown = time.monotonic()
        parts = [f"loss {self.loss:.3f}"] if math.isfinite(self.loss) else []
        parts += [f"held-out {self.eval_loss:.3f}"] if math.isfinite(self.eval_loss) else []
        parts += [f"{self.log.rate:,.0f} tokens/s"] if self.log.rate else []
        parts += [self.doing] if self.doing else []
        if not self.bar.disable:
            self.bar.update(self.task, numbers=", ".join(parts))
        else:
            numbers = ", ".join([*parts, *more])
            self.console.print(f"step {state.global_step}/{state.max_steps}: {numbers}", highlight=False)

    def close(self) -> None:
        self.ended.set()
        self.bar.stop()


def _peak_memory() -> float:
    """Highest memory of the device so far, in GiB."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated()) / 2**30
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux, bytes on macOS
    return peak / (2**30 if os.uname().sysname == "Darwin" else 2**20)
