"""What the end of a process means for its job, judged by the run folder: model, failure, or once more."""

import re
import time
from typing import Any

from train.core.files import write_whole
from train.core.runs import TOKEN_CACHE, Run, forget_tokens, whole_checkpoints
from train.jobs import training_process
from train.jobs.change import new_id
from train.jobs.job_errors import say, training_problem
from train.jobs.metrics_to_events import Followed, follow
from train.jobs.step_metrics import Tail, result_csv
from train.jobs.store import Store, remove_file
from train.jobs.wire import ENDED, File, JobError

ALONE = 10
"""Processes of a job in a row that may end without a word and without a new step before the job fails."""
STOPPED = ("stopped after step", "interrupted")
"""Last words of a training that was asked to stop: it goes on later."""
RESUMING = re.compile(r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
"""Files of a checkpoint that only a resumed training needs."""


def finished(run: Run) -> bool:
    """Whether its result is complete: these folders are written aside and renamed."""
    return run.adapter.exists() or run.merged.exists()


def settle(store: Store, job: str) -> None:
    """A training is over: what that means for the job."""
    forget_tokens(store.folder / TOKEN_CACHE)  # the rows in another form: they must not outlive their file
    entry = store.entry(job)
    if entry is None or entry.job.status != "running":
        return
    run = store.run(job)
    if finished(run):
        follow(store, entry, Followed(Tail(run.metrics_file)), ended=True)
        succeed(store, job, run)
        return
    folder = store.job_folder(job)
    said = training_process.last_words(folder / "output.log")
    if said is None:
        died(store, job, "training")
    elif not said.startswith(STOPPED):
        fail(store, job, training_problem(said, folder))


def succeed(store: Store, job: str, run: Run) -> None:
    """Model, result file, last events and status: all of it or nothing."""
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
        change.add_model(name, job, None)
        change.add_event(job, "model", "New fine-tuned model created", data={"fine_tuned_model": name})
        change.add_event(job, "succeeded", "The job has successfully completed")
        entry.job.status, entry.job.fine_tuned_model = "succeeded", name
        entry.job.result_files, entry.job.estimated_finish = [file.id], None
        entry.job.finished_at = int(time.time())
        entry.job.trained_tokens = int(max((line.get("num_tokens", 0) for line in metrics), default=0))
        change.save(entry)
    say(f"{job}: succeeded")
    for folder in whole_checkpoints(run.checkpoints):
        for path in folder.iterdir():
            if RESUMING.fullmatch(path.name):  # nothing goes on from here
                path.unlink()


def died(store: Store, job: str, what: str) -> None:
    """A process of the job ended without a word: it begins again, unless that has happened too often."""
    with store.change() as change:
        entry = change.entry(job)
        assert entry is not None
        entry.plan.alone += 1
        change.save(entry)
        number = change.count_events(job, "died") + 1
        text = f"The {what} process ended unexpectedly; the job goes on from what it had saved"
        change.add_event(job, f"died {number}", text, level="warn")
    say(f"{job}: its {what} process ended without a word")
    if entry.plan.alone >= ALONE:
        text = f"The {what} process was killed {ALONE} times without a new step: the machine may lack memory"
        fail(store, job, JobError(code="server_error", message=text, param=None))


def fail(store: Store, job: str, error: JobError, data: dict[str, Any] | None = None) -> None:
    """The job ends with this error, unless it has ended already."""
    with store.change() as change:
        entry = change.entry(job)
        if entry is None or entry.job.status in ENDED:
            return
        entry.job.status, entry.job.error = "failed", error
        entry.job.finished_at, entry.job.estimated_finish = int(time.time()), None
        change.save(entry)
        change.add_event(job, "failed", error.message, level="error", data=data)
    say(f"{job}: failed ({error.code})")
