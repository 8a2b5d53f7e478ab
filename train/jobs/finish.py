"""What the end of a process means for its job, judged by the run folder: success, failure or another attempt."""

import re
import time
from typing import Any

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
STOPPED_BY_REQUEST = ("stopped after step", "interrupted")
"""How the last error of a training begins that was asked to stop: it goes on later."""
RESUME_ONLY = re.compile(r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
"""Names of a checkpoint's files that only a resumed training needs."""


def has_result(run: Run) -> bool:
    """Whether the run has its result: these folders are written aside and renamed, so they are complete."""
    return run.adapter.exists() or run.merged.exists()


def finish_attempt(store: Store, job: str) -> None:
    """Act upon the end of a training: the job succeeds, fails, or stays as it is and is started again."""
    entry = store.entry(job)
    if entry is None or entry.job.status != "running":
        return
    run = store.run(job)
    if has_result(run):
        follow(store, entry, MetricsFollower(Tail(run.metrics_file)), ended=True)
        succeed(store, job, run)
        return
    folder = store.job_folder(job)
    error_text = training_process.last_error(folder / "output.log")
    if error_text is None:
        count_death(store, job, "training")
    elif not error_text.startswith(STOPPED_BY_REQUEST):
        fail_job(store, job, training_problem(error_text, folder))


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
        entry.job.finished_at = int(time.time())
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
        assert entry is not None
        entry.state.deaths_in_a_row += 1
        change.save(entry)
        number = change.count_events(job, "died") + 1
        text = f"The {what} process ended unexpectedly; the job goes on from what it had saved"
        change.add_event(job, f"died {number}", text, level="warn")
    log_line(f"{job}: its {what} process ended without a word")
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
        entry.job.finished_at, entry.job.estimated_finish = int(time.time()), None
        change.save(entry)
        change.add_event(job, "failed", error.message, level="error", data=data)
    log_line(f"{job}: failed ({error.code})")
