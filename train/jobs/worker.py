"""Makes the processes follow the store: starts, watches and stops trainings, one a slot.

One thread, a look every quarter of a second. It keeps nothing in mind that the next look could not find again.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from train.core.launch import launch_command
from train.core.runs import last_checkpoint
from train.jobs import training_process
from train.jobs.change import Entry
from train.jobs.finish import fail, finished, settle
from train.jobs.job_errors import say
from train.jobs.metrics_to_events import Followed, Watched, follow
from train.jobs.step_metrics import Tail
from train.jobs.store import Store
from train.jobs.validate_files import Checker
from train.jobs.wire import JobError

PAUSE = 0.25
"""Seconds between two looks."""
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
"""Troubles of the machine, not of a job: the next look may fare better."""


class Room:
    """The memory of the cards, when nothing but training asks for it."""

    def make(self) -> None:
        """Return when no engine holds memory; from then on none starts."""

    def give(self) -> None:
        """No training runs."""


class Worker(threading.Thread):
    """The thread. Its jobs begin in the order in which they were created."""

    def __init__(self, store: Store, slots: int, room: Room) -> None:
        super().__init__(name="worker", daemon=True)
        self.store = store
        self.slots = slots
        self.room = room
        self.wake = threading.Event()
        self.checker = Checker(store)
        self._stopping = threading.Event()
        self._watched: dict[str, Watched] = {}
        self._expired = time.monotonic()

    def run(self) -> None:
        self._adopt()
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception as error:
                say(f"worker: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                self._stopping.wait(2)
            self.wake.wait(PAUSE)
            self.wake.clear()
        self._let_go()

    def stop(self) -> None:
        """End every training with its state saved; the jobs stay as they are and go on with the next server."""
        self._stopping.set()
        self.wake.set()

    def _adopt(self) -> None:
        """Take over the trainings of a server before us."""
        start = self._mark("")
        for mark in sorted(training_process.marked(start)):
            job = mark.removeprefix(start)
            if self.store.entry(job) is not None:
                self._watch(job, training_process.Training(mark))
                say(f"{job}: its training still runs, taken over")

    def _look(self) -> None:
        for job in list(self._watched):
            self._each(job, self._tend)
        self.checker.look()
        for status in ("running", "queued"):  # first what ran before a crash
            for entry in self.store.with_status(status, self.slots):
                if entry.job.id not in self._watched and len(self._watched) < self.slots:
                    self._each(entry.job.id, self._start)
        if not self._watched:
            self.room.give()
        if time.monotonic() - self._expired > 60:
            self._expired = time.monotonic()
            self.store.expire()

    def _each(self, job: str, act: Callable[[str], None]) -> None:
        """Do it for a job; what goes wrong there, and would go wrong again, ends this job and no other."""
        try:
            act(job)
        except Exception as error:
            if isinstance(error, sqlite3.Error) or (isinstance(error, OSError) and error.errno in PASSING):
                raise
            say(f"{job}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            text = "The server could not go on with this job; its log says why"
            fail(self.store, job, JobError(code="server_error", message=text, param=None))

    def _tend(self, job: str) -> None:
        """Read on in a training that should run, stop one that should not, settle one that is over."""
        watched = self._watched[job]
        entry = self.store.entry(job)
        assert entry is not None
        running = watched.training.runs()
        if entry.job.status == "queued" and running and watched.training.asked_at is None:
            entry = self._set_running(job)  # started by a server that died before it could say so
        if entry.job.status == "running":
            follow(self.store, entry, watched.followed, ended=not running)
        elif running:
            saved = last_checkpoint(self.store.run(job))
            since = watched.training.asked_at
            watched.training.ask_to_stop(bool(saved and since and saved.stat().st_mtime > since))
        if not running:
            del self._watched[job]
            settle(self.store, job)

    def _start(self, job: str) -> None:
        """Begin the training of a job or go on with it, unless it is over or runs already."""
        if self._stopping.is_set():
            return
        run, mark = self.store.run(job), self._mark(job)
        if finished(run):  # it ended while nobody looked
            self._set_running(job)
            settle(self.store, job)
            return
        self.room.make()
        if training_process.find(mark):
            self._watch(job, training_process.Training(mark))
            return
        resume = last_checkpoint(run) is not None and run.manifest_file.exists()
        if not resume:
            self.store.discard(run)  # without a checkpoint and a manifest nothing can go on
        if self._set_running(job).job.status != "running":
            return
        config = self.store.job_folder(job) / "config.yaml"
        command = launch_command(config, ["--resume"] if resume else [], ())
        script = next(word for word in command if Path(word).name == "sft.py")
        command = [str(Path(word).absolute()) if word in (command[0], script) else word for word in command]
        slot = self._free_slot()
        log = self.store.job_folder(job) / "output.log"
        training = training_process.start(command, mark, self.store.folder, log, slot, self._card(slot))
        self._watch(job, training, slot)
        say(f"{job}: training {'goes on' if resume else 'begins'} in slot {slot}")

    def _set_running(self, job: str) -> Entry:
        with self.store.change() as change:
            entry = change.entry(job)
            assert entry is not None
            if entry.job.status == "queued":
                entry.job.status = "running"
                change.save(entry)
                change.add_event(job, "started", "Fine-tuning job started")
        return entry

    def _card(self, slot: int) -> dict[str, str]:
        """Several slots have a card each."""
        if self.slots == 1:
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = visible.split(",") if visible else [] if visible == "" else [str(n) for n in range(self.slots)]
        return {"CUDA_VISIBLE_DEVICES": cards[slot]} if slot < len(cards) else {}

    def _watch(self, job: str, training: training_process.Training, slot: int | None = None) -> None:
        slot = training.slot() if slot is None else slot
        slot = self._free_slot() if slot is None else slot
        self._watched[job] = Watched(training, slot, Followed(Tail(self.store.run(job).metrics_file)))

    def _free_slot(self) -> int:
        taken = {watched.slot for watched in self._watched.values()}
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def _let_go(self) -> None:
        self.checker.close()
        if self._watched:
            say(f"waiting for {len(self._watched)} training(s) to save and end")
        deadline = time.monotonic() + training_process.GRACE + 5
        while self._watched and time.monotonic() < deadline:
            for job, watched in list(self._watched.items()):
                if watched.training.runs():
                    watched.training.ask_to_stop(saved=False)
                else:
                    del self._watched[job]
            time.sleep(0.1)

    def _mark(self, job: str) -> str:
        return f"{self.store.folder}:{job}"
