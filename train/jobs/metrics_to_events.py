"""Follows a training by its metrics file: new steps and checkpoints become events, each once."""

import time
from dataclasses import dataclass, field

from train.core.config import Config, load_config
from train.core.runs import Run
from train.jobs import run_config, training_process
from train.jobs.change import Change, Entry, new_id
from train.jobs.step_metrics import Steps, Tail, by_step, full_validation, on_the_wire
from train.jobs.store import Store
from train.jobs.wire import Checkpoint


@dataclass
class Followed:
    """A training as far as it has been read."""

    tail: Tail
    steps: Steps | None = None
    """None before its manifest is there."""
    config: Config | None = None
    times: list[tuple[float, int]] = field(default_factory=list)
    """(time, step) of the steps seen here, for the time left."""

    def finish(self, step: int) -> int | None:
        """When the last step will be done, by the pace of the steps seen here (unix time)."""
        assert self.steps is not None
        self.times.append((time.time(), step))
        (began, first), (now, last) = self.times[0], self.times[-1]
        if last <= first:
            return None
        return int(now + (self.steps.total - last) * (now - began) / (last - first)) + 1


@dataclass
class Watched:
    """A job whose training runs."""

    training: training_process.Training
    slot: int
    followed: Followed


def follow(store: Store, entry: Entry, followed: Followed, *, ended: bool) -> None:
    """New steps and checkpoints as events. `ended`: the training writes nothing more."""
    run = store.run(entry.job.id)
    lines = followed.tail.new_lines()
    if followed.steps is None:
        if not run.manifest_file.exists() or not (lines or ended):
            return
        followed.config = load_config(store.job_folder(entry.job.id) / "config.yaml")
        rows = _rows(run)
        every = (
            run_config.steps_an_epoch(followed.config, rows) if followed.config.training.eval_strategy != "no" else 0
        )
        followed.steps = Steps(run_config.total_steps(followed.config, rows), every, entry.plan.step)
    followed.steps.take(lines)
    steps = list(followed.steps.ready(ended=ended))
    checkpoints = _new_checkpoints(store, entry, followed, run)
    if not steps and not checkpoints:
        return
    with store.change() as change:
        now = change.entry(entry.job.id)
        if now is None or now.job.status != "running":
            return
        pending = list(checkpoints)
        for step in steps:
            now.plan.step, now.plan.alone = step.step, 0
            change.add_event(now.job.id, f"step {step.step}", step.message, type="metrics", data=step.data)
            while pending and pending[0].step_number <= step.step:
                _add_checkpoint(change, pending.pop(0))
        for checkpoint in pending:
            _add_checkpoint(change, checkpoint)
        now.plan.total = followed.steps.total
        now.job.estimated_finish = followed.finish(now.plan.step)
        change.save(now)


def _new_checkpoints(store: Store, entry: Entry, followed: Followed, run: Run) -> list[Checkpoint]:
    """Checkpoints at the end of an epoch, of steps that are known already."""
    assert followed.config is not None and followed.steps is not None
    known = {checkpoint.step_number for checkpoint in store.checkpoints(entry.job.id)}
    epoch, total = run_config.steps_an_epoch(followed.config, _rows(run)), followed.steps.total
    found = sorted(int(path.name.split("-")[1]) for path in run.checkpoints.glob("checkpoint-*"))
    wanted = [step for step in found if step not in known and (step % epoch == 0 or step == total)]
    wanted = [step for step in wanted if step <= followed.steps.after]
    if not wanted:
        return []
    lines = by_step(run.metrics())
    made = []
    for step in wanted:
        line = lines.get(step, {})
        made.append(
            Checkpoint(
                id=new_id("ftckpt_"),
                created_at=int(time.time()),
                fine_tuned_model_checkpoint=f"{entry.model_name}:ckpt-step-{step}",
                fine_tuning_job_id=entry.job.id,
                step_number=step,
                metrics={"step": step, **on_the_wire(line), **full_validation(line)},
            )
        )
    return made


def _rows(run: Run) -> int:
    """Rows that the run trains on."""
    return int(run.manifest()["data"]["train"]["rows"])


def _add_checkpoint(change: Change, checkpoint: Checkpoint) -> None:
    change.add_checkpoint(checkpoint)
    step = checkpoint.step_number
    change.add_event(checkpoint.fine_tuning_job_id, f"checkpoint {step}", f"Checkpoint created at step {step}")
