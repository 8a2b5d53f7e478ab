"""Where trainings run: `local` is this machine, as processes of their own; `ray` is a cluster, see ray_executor.py."""

import socket
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from train.core.cards import card_count
from train.jobs import training_process
from train.jobs.store import Store


class Training(Protocol):
    """One attempt at the training of a job."""

    stop_requested_at: float | None
    """When it was first asked to stop (unix time); None before."""

    def runs(self) -> bool:
        """Whether it runs, or is still to begin."""

    def unbegun(self) -> str | None:
        """Why it has not begun, which may be empty; None once it has."""

    def slot(self) -> int | None:
        """The slot that it was started in; None where nothing depends on it."""

    def request_stop(self, saved: bool) -> None:
        """Ask it to save and end; end it where that takes too long. `saved`: its checkpoint is there."""


class Node(NamedTuple):
    """A machine that trains."""

    name: str
    state: str
    gpus: float
    jobs: Sequence[str]
    """Ids of the jobs that run on it."""


class Executor(Protocol):
    """Starts trainings and finds them again. The store and the run folders decide what is to run."""

    elsewhere: bool
    """Whether trainings are on other machines: they may have to wait for one, and go on when the server is ended."""

    def running(self) -> dict[str, Training]:
        """Job → its training, of all that an earlier server has started."""

    def find(self, job: str) -> Training | None:
        """The training of a job that is not watched yet; None where there is none."""

    def hindrance(self) -> str | None:
        """Why nothing can be started now; None where nothing is known against it."""

    def submit(self, job: str, command: Sequence[str], slot: int) -> Training:
        """Start the training of a job, or have it start when there is room."""

    def nodes(self) -> list[Node]:
        """The machines that train."""


class LocalExecutor:
    """Trainings on this machine: they carry a mark, by which they are found."""

    elsewhere = False

    def __init__(self, store: Store, cards: Sequence[str] = ()) -> None:
        """`cards`: of each slot, as CUDA_VISIBLE_DEVICES names it; none where trainings see what the server sees."""
        self._store = store
        self._cards = cards

    def running(self) -> dict[str, Training]:
        start = self._mark("")
        marks = sorted(training_process.live_marks(start))
        return {mark.removeprefix(start): training_process.TrainingProcesses(mark) for mark in marks}

    def find(self, job: str) -> Training | None:
        mark = self._mark(job)
        return training_process.TrainingProcesses(mark) if training_process.find(mark) else None

    def hindrance(self) -> None:
        return None

    def submit(self, job: str, command: Sequence[str], slot: int) -> Training:
        variables = {"CUDA_VISIBLE_DEVICES": self._cards[slot]} if self._cards else {}
        log = self._store.job_folder(job) / "output.log"
        return training_process.start(command, self._mark(job), self._store.folder, log, slot, variables)

    def nodes(self) -> list[Node]:
        return [Node(socket.gethostname(), "alive", card_count(), sorted(self.running()))]

    def _mark(self, job: str) -> str:
        """The mark by which the job's processes are found."""
        return training_process.mark_of(self._store.folder, job)
