"""What the end of a process means for its job, judged by the run folder: success, failure or another attempt."""

import re
import time
from enum import Enum
from typing import Any

from train.core.errors import DISK_FULL
from train.core.files import write_whole
from train.core.runs import Run, whole_checkpoints
from train.jobs import training_process
from train.jobs.change import new_id
from train.jobs.job_errors import log_line, training_problem
from train.jobs.metrics_to_events import MetricsFollower, follow
from train.jobs.step_metrics import Tail, result_csv
from train.jobs.store import Store, remove_file
from train.jobs.wire import ENDED_STATUSES, File, JobError

MOST_DEATHS = 10
"""The job fails when so many of its processes in a row were killed without a new step."""
DEATH_GRACE = 10.0
"""Seconds that the server must outlive a training whose death it counts: what kills the whole machine kills both."""
STOPPED_BY_REQUEST = ("stopped after step", "interrupted")
"""How the last error of a training begins that was asked to stop: it goes on later."""
WORKS_ON_IT = "works on this folder"
"""What a training says whose run folder another process holds."""
NO_ROOM = ("no room left on disk", "make room first")
"""What a training says for which the disk has no room."""
RESUME_ONLY = re.compile(r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
"""Names of a checkpoint's files that only a resumed training needs."""


def has_result(run: Run) -> bool:
    """Whether the run has its result: these folders are written aside and renamed, so they are complete."""
    return run.adapter.exists() or run.merged.exists()


class Attempt(Enum):
    """What becomes of a job whose training has ended."""

    SETTLED = "it is done, or goes on at once"
    LATER = "it goes on when there is room, or when its run is free"


class Deaths:
    """Trainings and checks that were killed, each counted once the server has outlived it for DEATH_GRACE seconds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._noted: list[tuple[float, str, str]] = []

    def note(self, job: str, what: str) -> None:
        """A process of the job has ended without a word."""
        log_line(f"{job}: its {what} process ended without a word")
        self._noted.append((time.monotonic(), job, what))

    def count(self) -> None:
        """Count those that are old enough."""
        while self._noted and time.monotonic() - self._noted[0][0] >= DEATH_GRACE:
            _, job, what = self._noted[0]
            count_death(self.store, job, what)
            self._noted.pop(0)


def finish_attempt(store: Store, job: str, deaths: Deaths) -> Attempt:
    """Act upon the end of a training: the job succeeds, fails, or stays as it is and is started again."""
    entry = store.entry(job)
    if entry is None or entry.job.status != "running":
        return Attempt.SETTLED
    run = store.run(job)
    if has_result(run):
        follow(store, entry, MetricsFollower(Tail(run.metrics_file)), ended=True)
        succeed(store, job, run)
        return Attempt.SETTLED
    folder = store.job_folder(job)
    error_text = training_process.last_error(folder / "output.log")
    if error_text is None:
        deaths.note(job, "training")
    elif DISK_FULL.search(error_text) or any(text in error_text for text in NO_ROOM):
        wait_for(store, job, "The disk is full; the job goes on when there is room")
        return Attempt.LATER
    elif WORKS_ON_IT in error_text:
        wait_for(store, job, "Another process works on the job's run; the job goes on when that is done")
        return Attempt.LATER
    elif not error_text.startswith(STOPPED_BY_REQUEST):
        fail_job(store, job, training_problem(error_text, folder))
    return Attempt.SETTLED


def wait_for(store: Store, job: str, why: str) -> None:
    """Say once, since the last step, what the job waits for."""
    log_line(f"{job}: {why}")
    with store.change() as change:
        entry = change.entry(job)
        step = entry.state.step if entry else 0
        change.add_event(job, f"waits after {step}: {why}", why, level="warn")


def succeed(store: Store, job: str, run: Run) -> None:
    """Record model, result file, last events and status in one transaction."""
    metrics = run.metrics()
    text = result_csv(metrics)
    file = File(
        id=new_id("file-"),
        purpose="fine-tune-results",
        filename="step_metrics.csv",
        bytes=len(text.encode()),
        created_at=int(time.time()),
    )
    store.reserve(file.id)
    write_whole(store.file_path(file.id), [text])
    with store.change() as change:
        entry = change.entry(job)
        if entry is None or entry.job.status != "running":
            remove_file(store.file_path(file.id))
            return
        name = entry.model_name
        change.add_file(file, "")
        for checkpoint in change.checkpoints(job):
            change.add_model(checkpoint.fine_tuned_model_checkpoint, job, checkpoint.step_number)
        for number, text in enumerate(run.manifest().get("warnings", ()), 1):
            change.add_event(job, f"warning {number}", f"Warning: {text}", level="warn")
        change.add_model(name, job, None)
        change.add_event(job, "model", "New fine-tuned model created", data={"fine_tuned_model": name})
        change.add_event(job, "succeeded", "The job has successfully completed")
        entry.job.status, entry.job.fine_tuned_model = "succeeded", name
        entry.job.result_files, entry.job.estimated_finish = [file.id], None
        entry.job.finished_at = max(int(time.time()), entry.job.created_at)  # the clock may have been set back
        entry.job.trained_tokens = int(max((line.get("num_tokens", 0) for line in metrics), default=0))
        change.save(entry)
    log_line(f"{job}: succeeded")
    for folder in whole_checkpoints(run.checkpoints):
        for path in folder.iterdir():
            if RESUME_ONLY.fullmatch(path.name):  # no training will resume from it
                path.unlink()


def count_death(store: Store, job: str, what: str) -> None:
    """Count a process of the job that was killed: it is started again, unless that has happened too often."""
    with store.change() as change:
        entry = change.entry(job)
        if entry is None or entry.job.status in ENDED_STATUSES:
            return
        entry.state.deaths_in_a_row += 1
        change.save(entry)
        number = change.count_events(job, "died") + 1
        text = f"The {what} process ended unexpectedly; the job goes on from what it had saved"
        change.add_event(job, f"died {number}", text, level="warn")
    if entry.state.deaths_in_a_row >= MOST_DEATHS:
        text = f"The {what} process was killed {MOST_DEATHS} times without a new step: the machine may lack memory"
        fail_job(store, job, JobError(code="server_error", message=text, param=None))


def fail_job(store: Store, job: str, error: JobError, data: dict[str, Any] | None = None) -> None:
    """End the job with this error, unless it has ended already. `data`: for the event."""
    with store.change() as change:
        entry = change.entry(job)
        if entry is None or entry.job.status in ENDED_STATUSES:
            return
        entry.job.status, entry.job.error = "failed", error
        entry.job.finished_at, entry.job.estimated_finish = max(int(time.time()), entry.job.created_at), None
        change.save(entry)
        change.add_event(job, "failed", error.message, level="error", data=data)
    log_line(f"{job}: failed ({error.code})")
