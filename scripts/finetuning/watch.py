"""What the script says while it runs: on the screen and in its log, which holds no keys and no chat text."""

import sys
import time
from datetime import datetime
from pathlib import Path

from train.core.errors import GovorError

from .providers import Event, Job, JobFailedError, Service, UnreachableError

ENDED = ("succeeded", "failed", "cancelled")
MAX_MISSED = 10  # polls in a row without an answer


class Log:
    """The log file logs/….log, created with its first line, and the screen."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        """`name`: a file that every run adds to; None: a file of its own."""
        self.path = folder / (name or f"upload_and_finetune_{datetime.now():%Y%m%d_%H%M%S_%f}.log")
        self._progress_shown = False

    def note(self, text: str) -> None:
        """Write a line into the log alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")

    def say(self, text: str, *, noted: bool = True) -> None:
        """Show a line on the screen; it goes into the log as well unless it may hold chat text."""
        print(f"\r\x1b[K{text}" if self._progress_shown else text, flush=True)
        self._progress_shown = False
        if noted:
            self.note(text)

    def show_progress(self, text: str) -> None:
        """Show a line that the next one replaces on a terminal; elsewhere it stays."""
        self.note(text)
        if sys.stdout.isatty():
            print(f"\r\x1b[K{text}", end="", flush=True)
            self._progress_shown = True
        else:
            print(text, flush=True)


def watch(service: Service, id_: str, log: Log, *, interval: float, tokens: int | None, resume_command: str) -> Job:
    """The job when it has succeeded; JobFailedError where it ends otherwise.

    interval: seconds between two looks. tokens: of one epoch, if known. resume_command: goes on watching the job.
    """
    seen: set[str] = set()
    steps: list[Event] = []
    status, missed = "", 0
    while True:
        try:
            job = service.job(id_)
            events = service.new_events(id_, seen)
        except UnreachableError as error:
            missed += 1
            if missed == MAX_MISSED:
                raise GovorError(f"{error}; the job may go on, to watch it again: {resume_command}") from None
            if missed == 1:
                log.say(f"no answer, asking again: {error}", noted=False)
                log.note("no answer, asking again")
            time.sleep(interval)
            continue
        missed = 0
        steps += (event for event in events if event.step)
        _report(events, steps, job, tokens, log)
        if job.status != status:
            status = job.status
            log.say(f"Status: {status}")
        if status in ENDED:
            return _ended(job)
        time.sleep(interval)


def _report(events: list[Event], steps: list[Event], job: Job, tokens: int | None, log: Log) -> None:
    """Show every message, every step with a validation loss, and of the other steps the newest."""
    newest = next((event for event in reversed(events) if event.step), None)
    for event in events:
        if event.step is None:
            quotes = event.level == "error"  # may quote a row
            log.say(event.message, noted=not quotes)
        elif event.step.get("valid_loss") is not None:
            log.say(progress_line(event, steps, job, tokens))
        elif event is newest:
            log.show_progress(progress_line(event, steps, job, tokens))


def progress_line(event: Event, steps: list[Event], job: Job, tokens: int | None) -> str:
    """A training step as one line: loss, tokens so far, time left."""
    data = event.step or {}
    step, total = data.get("step"), data.get("total_steps")
    parts = [f"step {step}/{total}" if total else f"step {step}"]
    names = {"train_loss": "loss", "train_mean_token_accuracy": "accuracy", "valid_loss": "validation loss"}
    parts += [f"{name} {data[key]:.3f}" for key, name in names.items() if isinstance(data.get(key), int | float)]
    if isinstance(step, int) and isinstance(total, int) and total:
        if tokens and job.epochs:
            parts.append(f"≈{round(tokens * job.epochs * step / total):,} tokens")
        if (left := _left(step, total, steps, job)) is not None and step < total:
            parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _left(step: int, total: int, steps: list[Event], job: Job) -> float | None:
    """Seconds to the end: the provider's estimate, else by the pace of the steps seen."""
    if job.ends is not None:
        return job.ends - time.time()
    first = steps[0]
    done = step - first.step["step"] if first.step and isinstance(first.step.get("step"), int) else 0
    now = next(event.at for event in reversed(steps) if event.step and event.step.get("step") == step)
    return (total - step) * (now - first.at) / done if done > 0 and now > first.at else None


def _ended(job: Job) -> Job:
    """The job if it has succeeded; else JobFailedError."""
    if job.status == "succeeded" and job.tuned:
        return job
    why = f": {job.error}" if job.error else ""
    code = f" ({job.code})" if job.code else ""
    raise JobFailedError(f"job {job.id} {'was cancelled' if job.status == 'cancelled' else job.status}{why}{code}")
