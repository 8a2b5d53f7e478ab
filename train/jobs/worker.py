"""Makes the processes follow the store: starts, watches and stops trainings, one a slot.

One thread looks four times a second. It keeps nothing in mind that the next look could not find again.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from train.core.cards import card_count
from train.core.config import load_config
from train.core.errors import MachineError
from train.core.launch import SCRIPTS, launch_command
from train.core.runs import last_checkpoint
from train.jobs import training_process
from train.jobs.change import JobEntry
from train.jobs.executors import Executor, LocalExecutor, Training
from train.jobs.finish import Attempt, Deaths, fail_job, finish_attempt, has_result, wait_for
from train.jobs.job_errors import log_line
from train.jobs.metrics_to_events import MetricsFollower, WatchedTraining, follow
from train.jobs.step_metrics import Tail
from train.jobs.store import Store
from train.jobs.validate_files import FileChecker
from train.jobs.wire import JobError

LOOK_EVERY = 0.25
"""Seconds between two looks."""
TRY_AGAIN = 30.0
"""Seconds until a training is tried again for which there was no room, or whose run another process held."""
TRANSIENT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
"""Errors of the machine, not of a job: the next look may succeed."""


class GpuLease:
    """The right to the GPUs' memory, which trainings share with the engine that answers chats.

    As it stands, for a server without an engine, it is always to be had.
    """

    def acquire(self) -> bool:
        """Take the memory for training: whether no engine holds any. No engine starts until `release`.

        Where it is False, answers in flight are ending: ask again at the next look.
        """
        return True

    def release(self) -> None:
        """Give the memory back: no training runs, and none is about to."""


def cards_of_slots(slots: int) -> list[str]:
    """A card for each slot, as CUDA_VISIBLE_DEVICES names it; MachineError where there are fewer cards than slots.

    Empty where nothing is to be dealt out: on a machine without cards, and for one slot, whose training takes the first
    card that it sees (`tuning.processes.see_one_gpu`).
    """
    count = card_count() if slots > 1 else 0
    if count and slots > count:
        raise MachineError(
            f"--slots {slots} wants a GPU for each slot, and {count} {'is' if count == 1 else 'are'} visible: "
            f"use --slots {count}, or let more be seen by CUDA_VISIBLE_DEVICES"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return [name.strip() for name in names[: min(slots, count)]]


class Worker(threading.Thread):
    """The thread that runs the jobs, in the order in which they were created."""

    def __init__(
        self, store: Store, slots: int, lease: GpuLease, cards: Sequence[str] = (), executor: Executor | None = None
    ) -> None:
        """`cards`: see `LocalExecutor`, which runs the trainings where no other executor is given."""
        super().__init__(name="worker", daemon=True)
        self.store = store
        self.slots = slots
        self.lease = lease
        self.executor = executor or LocalExecutor(store, cards)
        self.wake = threading.Event()
        self.deaths = Deaths(store)
        self.checker = FileChecker(store, self.deaths)
        self._stopping = threading.Event()
        self._watched: dict[str, WatchedTraining] = {}
        self._last_expiry = time.monotonic()
        self._waits_for_memory = False
        """Whether the last look left a job unstarted because an engine still holds the memory."""
        self._not_before: dict[str, float] = {}
        """Job → when it may be tried again, where the disk was full or another process was at work on its run."""

    def run(self) -> None:
        self._adopt()
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception as error:
                log_line(f"worker: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                self._stopping.wait(2)
            self.wake.wait(LOOK_EVERY)
            self.wake.clear()
        self._stop_trainings()

    def stop(self) -> None:
        """End every training with its state saved; the jobs stay as they are and go on with the next server."""
        self._stopping.set()
        self.wake.set()

    def _adopt(self) -> None:
        """Take over the trainings that an earlier server has started."""
        for job, training in self.executor.running().items():
            if self.store.entry(job) is not None:
                self._watch(job, training)
                log_line(f"{job}: its training still runs, taken over")

    def _look(self) -> None:
        for job in list(self._watched):
            self._attempt(job, self._tend)
        self.deaths.count()
        self.checker.advance()
        self._waits_for_memory = False
        for status in ("running", "queued"):  # first what ran before a crash
            for entry in self.store.jobs_with_status(status, self.slots):
                waits = self._not_before.get(entry.job.id, 0) > time.monotonic()
                if entry.job.id not in self._watched and len(self._watched) < self.slots and not waits:
                    self._attempt(entry.job.id, self._start)
        if not self._watched and not self._waits_for_memory:
            self.lease.release()
        if time.monotonic() - self._last_expiry > 60:
            self._last_expiry = time.monotonic()
            self.store.expire()

    def _attempt(self, job: str, act: Callable[[str], None]) -> None:
        """Run `act` for a job; an error that would come again fails this job and holds up no other."""
        try:
            act(job)
        except Exception as error:
            if isinstance(error, sqlite3.Error) or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRORS):
                raise
            log_line(f"{job}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            text = "The server could not go on with this job; its log says why"
            fail_job(self.store, job, JobError(code="server_error", message=text, param=None))

    def _tend(self, job: str) -> None:
        """Read on in a training that should run, stop one that should not, finish one that has ended."""
        watched = self._watched[job]
        entry = self.store.entry(job)
        assert entry is not None
        running = watched.training.runs()
        unbegun = watched.training.unbegun()
        wanted = entry.job.status in ("queued", "running") and watched.training.stop_requested_at is None
        if unbegun and wanted and unbegun != watched.said:
            watched.said = unbegun
            wait_for(self.store, job, unbegun)
        if entry.job.status == "queued" and running and wanted and unbegun is None:
            entry = self._set_running(job)
        if entry.job.status == "running":
            follow(self.store, entry, watched.follower, ended=not running)
        elif running and not wanted:
            saved = last_checkpoint(self.store.run(job))
            since = watched.training.stop_requested_at
            watched.training.request_stop(bool(saved and since and saved.stat().st_mtime > since))
        if not running:
            del self._watched[job]
            if unbegun is not None or finish_attempt(self.store, job, self.deaths) is Attempt.LATER:
                self._not_before[job] = time.monotonic() + TRY_AGAIN

    def _start(self, job: str) -> None:
        """Start or resume the training of a job, unless it has ended or runs already."""
        if self._stopping.is_set():
            return
        run = self.store.run(job)
        if has_result(run):  # it ended while nobody looked
            self._set_running(job)
            finish_attempt(self.store, job, self.deaths)
            return
        if not self.lease.acquire():
            self._waits_for_memory = True
            return
        if training := self.executor.find(job):
            self._watch(job, training)
            return
        if why := self.executor.hindrance():
            wait_for(self.store, job, why)
            self._not_before[job] = time.monotonic() + TRY_AGAIN
            return
        resume = last_checkpoint(run) is not None and run.manifest_file.exists()
        if not resume:
            self.store.discard(run)  # without a checkpoint and a manifest nothing can go on
        if not self.executor.elsewhere and self._set_running(job).job.status != "running":
            return
        config = self.store.job_folder(job) / "config.yaml"
        command = launch_command(config, load_config(config), ["--resume"] if resume else [], ())
        paths = (command[0], next(part for part in command if Path(part).name in SCRIPTS))
        command = [str(Path(part).absolute()) if part in paths else part for part in command]
        slot = self._free_slot()
        self._watch(job, self.executor.submit(job, command, slot), slot)
        log_line(f"{job}: training {'goes on' if resume else 'begins'} in slot {slot}")

    def _set_running(self, job: str) -> JobEntry:
        """Give a queued job the status `running`; the job as it is then."""
        with self.store.change() as change:
            entry = change.entry(job)
            assert entry is not None
            if entry.job.status == "queued":
                entry.job.status = "running"
                change.save(entry)
                change.add_event(job, "started", "Fine-tuning job started")
        return entry

    def _watch(self, job: str, training: Training, slot: int | None = None) -> None:
        slot = training.slot() if slot is None else slot
        slot = self._free_slot() if slot is None else slot
        self._watched[job] = WatchedTraining(training, slot, MetricsFollower(Tail(self.store.run(job).metrics_file)))

    def _free_slot(self) -> int:
        used = {watched.slot for watched in self._watched.values()}
        return next(n for n in range(len(used) + 1) if n not in used)

    def _stop_trainings(self) -> None:
        """Ask every training to save and end, and wait for them; not those that go on without us."""
        self.checker.close()
        if self.executor.elsewhere:
            return
        if self._watched:
            log_line(f"waiting for {len(self._watched)} training(s) to save and end")
        deadline = time.monotonic() + training_process.STEP_GRACE + 5
        while self._watched and time.monotonic() < deadline:
            for job, watched in list(self._watched.items()):
                if watched.training.runs():
                    watched.training.request_stop(saved=False)
                else:
                    del self._watched[job]
            time.sleep(0.1)
