"""Going on from a checkpoint: the run folder and the counters as they were when it was written."""

import json
from pathlib import Path
from typing import Any

from train.core.errors import RunError
from train.core.runs import Run, discard_run
from train.encoding.loss_mask import template_hash
from train.models.base import weights_fingerprint
from train.tuning.processes import say


def require_same_template(run: Run, tokenizer: Any) -> None:
    """RunError where the tokenizer's chat template is not the one that the run was begun with."""
    if run.manifest()["template"]["sha256"] != template_hash(tokenizer):
        name = run.config().model.chat_template
        what = f"model.chat_template={name}" if name else "the base's chat template"
        raise RunError(f"{what} has changed since {run.path} was begun: resume it with the same template")


def restore_counters(trainer: Any, run: Run, checkpoint: Path | None, base: Path) -> None:
    """Bring the run folder and the trainer's counters to where the checkpoint was written."""
    if run.manifest()["base"]["weights"] != weights_fingerprint(base):
        raise RunError(f"the base has changed since {run.path} was begun: resume it over the same weights")
    step = int(checkpoint.name.split("-")[1]) if checkpoint else -1
    say(trainer.accelerator.state, f"going on after step {step}" if checkpoint else "no checkpoint yet: from the start")
    if trainer.accelerator.is_main_process:
        run.forget_metrics_after(step)
    trainer.accelerator.wait_for_everyone()
    trainer.trained_tokens = max((entry.get("num_tokens", 0) for entry in run.metrics()), default=0)


def discard_failed_start(trainer: Any, run: Run, *, resume: bool) -> None:
    """Take away the folder of a run that failed before its first step was done, so that its name is free again."""
    if not resume and trainer.state.global_step == 0 and trainer.accelerator.is_main_process:
        discard_run(run)


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint was written after the last step of its run."""
    state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    return bool(state["global_step"] >= state["max_steps"])
