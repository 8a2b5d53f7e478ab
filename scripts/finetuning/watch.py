"""What the script says while it runs: on the screen and in its log, which holds no keys and no chat text."""

import sys
import time
from datetime import datetime
from pathlib import Path

from train.core.errors import GovorError

from .providers import Event, Job, JobFailedError, Service, UnreachableError

ENDED = ("succeeded", "failed", "cancelled")
PATIENCE = 10  # polls in a row without an answer


class Log:
    """logs/….log, begun with its first line; and the lines that go to the screen too."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"upload_and_finetune_{datetime.now():%Y%m%d_%H%M%S_%f}.log"
        self._passing = False

    def note(self, text: str) -> None:
        """For the log alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")

    def say(self, text: str, *, noted: bool = True) -> None:
        """A line on the screen; in the log as well unless it may hold chat text."""
        print(f"\r\x1b[K{text}" if self._passing else text, flush=True)
        self._passing = False
        if noted:
            self.note(text)

    def passing(self, text: str) -> None:
        """A line that the next one replaces on a terminal; elsewhere a line like any other."""
        self.note(text)
        if sys.stdout.isatty():
            print(f"\r\x1b[K{text}", end="", flush=True)
            self._passing = True
        else:
            print(text, flush=True)


def watch(service: Service, id_: str, log: Log, *, every: float, tokens: int | None, again: str) -> Job:
    """The job when it has succeeded; JobFailedError where it ends otherwise.

    every: seconds between two looks. tokens: of one epoch, if known. again: the command that goes on watching.
    """
    seen: set[str] = set()
    steps: list[Event] = []
    status, missed = "", 0
    while True:
        try:
            job = service.job(id_)
            news = service.news(id_, seen)
        except UnreachableError as error:
            missed += 1
            if missed == PATIENCE:
                raise GovorError(f"{error}; the job may go on, to watch it again: {again}") from None
            if missed == 1:
                log.say(f"no answer, asking again: {error}", noted=False)
                log.note("no answer, asking again")
            time.sleep(every)
            continue
        missed = 0
        steps += (event for event in news if event.step)
        _tell(news, steps, job, tokens, log)
        if job.status != status:
            status = job.status
            log.say(f"Status: {status}")
        if status in ENDED:
            return _ended(job)
        time.sleep(every)


def _tell(news: list[Event], steps: list[Event], job: Job, tokens: int | None, log: Log) -> None:
    """Every message, every step with a validation loss, and of the other steps the newest."""
    newest = next((event for event in reversed(news) if event.step), None)
    for event in news:
        if event.step is None:
            quotes = event.level == "error"  # may quote a row
            log.say(event.message, noted=not quotes)
        elif event.step.get("valid_loss") is not None:
            log.say(progress(event, steps, job, tokens))
        elif event is newest:
            log.passing(progress(event, steps, job, tokens))


def progress(event: Event, steps: list[Event], job: Job, tokens: int | None) -> str:
    """A step in a line: loss, tokens so far, time left."""
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
    if job.status == "succeeded" and job.tuned:
        return job
    why = f": {job.error}" if job.error else ""
    code = f" ({job.code})" if job.code else ""
    raise JobFailedError(f"job {job.id} {'was cancelled' if job.status == 'cancelled' else job.status}{why}{code}")
