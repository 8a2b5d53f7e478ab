"""A training's new steps and checkpoints become events, each once, as its metrics file grows."""

import time
from dataclasses import dataclass, field

from train.core.config import Config, load_config
from train.core.runs import Run
from train.jobs import run_config
from train.jobs.change import Change, JobEntry, new_id
from train.jobs.executors import Training
from train.jobs.step_metrics import StepCollector, Tail, full_validation_metrics, lines_by_step, wire_metrics
from train.jobs.store import Store
from train.jobs.wire import Checkpoint


@dataclass
class MetricsFollower:
    """How far the metrics of a training have been read."""

    tail: Tail
    steps: StepCollector | None = None
    """None until the run has its manifest."""
    config: Config | None = None
    times: list[tuple[float, int]] = field(default_factory=list)
    """(unix time, step) of the steps seen by this server."""

    def estimate_finish(self, step: int) -> int | None:
        """Unix time at which the last step will be done, by the pace so far; None before there is a pace."""
        assert self.steps is not None
        self.times.append((time.time(), step))
        (began, first), (now, last) = self.times[0], self.times[-1]
        if last <= first:
            return None
        return int(now + (self.steps.total - last) * (now - began) / (last - first)) + 1


@dataclass
class WatchedTraining:
    """The training of a job while it runs."""

    training: Training
    slot: int
    follower: MetricsFollower
    said: str = ""
    """What was last said about why it has not begun."""


def follow(store: Store, entry: JobEntry, follower: MetricsFollower, *, ended: bool) -> None:
    """Record new steps and checkpoints as events. `ended`: the training writes nothing more."""
    run = store.run(entry.job.id)
    lines = follower.tail.new_lines()
    if follower.steps is None:
        if not run.manifest_file.exists() or not (lines or ended):
            return
        follower.config = load_config(store.job_folder(entry.job.id) / "config.yaml")
        rows = _rows(run)
        evaluates = follower.config.training.eval_strategy != "no"
        eval_every = run_config.steps_per_epoch(follower.config, rows) if evaluates else 0
        follower.steps = StepCollector(run_config.total_steps(follower.config, rows), eval_every, entry.state.step)
    follower.steps.add(lines)
    steps = list(follower.steps.ready(ended=ended))
    checkpoints = _new_checkpoints(store, entry, follower, run)
    if not steps and not checkpoints:
        return
    with store.change() as change:
        current = change.entry(entry.job.id)
        if current is None or current.job.status != "running":
            return
        pending = list(checkpoints)
        for step in steps:
            current.state.step, current.state.deaths_in_a_row = step.step, 0
            change.add_event(current.job.id, f"step {step.step}", step.message, type="metrics", data=step.data)
            while pending and pending[0].step_number <= step.step:
                _add_checkpoint(change, pending.pop(0))
        for checkpoint in pending:
            _add_checkpoint(change, checkpoint)
        current.state.total = follower.steps.total
        current.job.estimated_finish = follower.estimate_finish(current.state.step)
        change.save(current)


def _new_checkpoints(store: Store, entry: JobEntry, follower: MetricsFollower, run: Run) -> list[Checkpoint]:
    """The checkpoints at epochs' ends that the store does not have yet, of steps that have been read."""
    assert follower.config is not None and follower.steps is not None
    stored = {checkpoint.step_number for checkpoint in store.checkpoints(entry.job.id)}
    epoch, total = run_config.steps_per_epoch(follower.config, _rows(run)), follower.steps.total
    on_disk = sorted(int(path.name.split("-")[1]) for path in run.checkpoints.glob("checkpoint-*"))
    new = [step for step in on_disk if step not in stored and (step % epoch == 0 or step == total)]
    new = [step for step in new if step <= follower.steps.after]
    if not new:
        return []
    lines = lines_by_step(run.metrics())
    checkpoints = []
    for step in new:
        line = lines.get(step, {})
        checkpoints.append(
            Checkpoint(
                id=new_id("ftckpt_"),
                created_at=int(time.time()),
                fine_tuned_model_checkpoint=f"{entry.model_name}:ckpt-step-{step}",
                fine_tuning_job_id=entry.job.id,
                step_number=step,
                metrics={"step": step, **wire_metrics(line), **full_validation_metrics(line)},
            )
        )
    return checkpoints


def _rows(run: Run) -> int:
    """Number of rows that the run trains on."""
    return int(run.manifest()["data"]["train"]["rows"])


def _add_checkpoint(change: Change, checkpoint: Checkpoint) -> None:
    change.add_checkpoint(checkpoint)
    step = checkpoint.step_number
    change.add_event(checkpoint.fine_tuning_job_id, f"checkpoint {step}", f"Checkpoint created at step {step}")
