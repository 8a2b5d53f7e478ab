"""The training processes: start one, find it again after any crash, stop it.

A training is the `accelerate launch` of a job and whatever it has started. Each of these processes carries the job's
name and data folder in its environment, so they are found by asking the system, never by a note that a crash may have
prevented or that no longer holds.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from train.core.launch import SCRIPTS

MARK_VARIABLE = "GOVOR_JOB"
SLOT_VARIABLE = "GOVOR_SLOT"
SAVED_GRACE = 20.0
"""Seconds that a training may still need once it has saved its state."""
STEP_GRACE = 120.0
"""Seconds that a training may take to finish its step and to save."""


class TrainingProcesses:
    """The processes of one job."""

    def __init__(self, mark: str, leader: "subprocess.Popen[bytes] | None" = None) -> None:
        self._mark = mark
        self._leader = leader
        self._processes = [] if leader else find(mark)
        self._signalled: set[int] = set()
        self.stop_requested_at: float | None = None
        """When it was first asked to stop (unix time); None before."""
        self._stopping_since = 0.0
        """The same by a clock that nobody sets."""

    def runs(self) -> bool:
        """Whether any of its processes is alive."""
        if self._leader is not None:
            if self._leader.poll() is None:
                return True
            self._leader = None
        self._processes = [process for process in self._processes if _alive(process)] or find(self._mark)
        return bool(self._processes)

    def unbegun(self) -> None:
        """Nothing keeps it from beginning at once, see executors.py."""

    def slot(self) -> int | None:
        """The slot that it was started in, which decides the GPU that it uses; None where no process says so."""
        for process in find(self._mark):
            with suppress(psutil.Error, ValueError):
                return int(process.environ().get(SLOT_VARIABLE, ""))
        return None

    def request_stop(self, saved: bool) -> None:
        """Ask each trainer, once, to finish its step, save and end; kill what takes too long.

        `saved`: its checkpoint is there, so it gets less time.
        """
        now = time.monotonic()
        if self.stop_requested_at is None:
            self.stop_requested_at, self._stopping_since = time.time(), now
        processes = find(self._mark)
        trainers = [process for process in processes if _is_trainer(process)]
        for process in trainers or processes:
            if process.pid not in self._signalled:
                self._signalled.add(process.pid)
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGTERM)
        if now - self._stopping_since > (SAVED_GRACE if saved else STEP_GRACE):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def start(
    command: Sequence[str], mark: str, folder: Path, log: Path, slot: int, variables: Mapping[str, str]
) -> TrainingProcesses:
    """Start a training in a session of its own, so that it outlives us; its output goes to the log."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **variables}
    environment |= {MARK_VARIABLE: mark, SLOT_VARIABLE: str(slot)}
    environment.pop("GOVOR_API_KEY", None)  # for clients, not for training
    with log.open("wb") as output:
        leader = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return TrainingProcesses(mark, leader)


def mark_of(folder: Path, job: str) -> str:
    """The mark of a job's processes: the data folder by what it is, not by one of its names, and the job's id.

    Links, `..` and bind mounts give a folder many names; all of them have its device and inode.
    """
    found = folder.stat()
    return f"{found.st_dev}-{found.st_ino}:{job}"


def find(mark: str) -> list[psutil.Process]:
    """The live processes that carry this mark."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK_VARIABLE) == mark and _alive(process) and process.pid != os.getpid():
                processes.append(process)
    return processes


def live_marks(prefix: str) -> set[str]:
    """The marks with this prefix that live processes carry."""
    marks = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK_VARIABLE, "")
            if mark.startswith(prefix) and _alive(process):
                marks.add(mark)
    return marks


def last_error(log: Path) -> str | None:
    """The last error in a training's log; None where there is none, so it was killed."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode("utf-8", errors="replace")
    errors = re.findall(r"^error: (.*(?:\n  .*)*)", text, re.MULTILINE)
    return errors[-1] if errors else None


def start_validation(file: Path, output: int) -> "subprocess.Popen[bytes]":
    """Start `govor validate --json` over a file: a process of its own, so that large files keep no client waiting."""
    command = [sys.executable, "-P", "-m", "train.cli", "validate", "--json", str(file)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _is_trainer(process: psutil.Process) -> bool:
    """Whether it is the script of a training itself: neither the launcher nor a helper that the script has started."""
    with suppress(psutil.Error):
        parent = process.parent()
        return _runs_script(process) and not (parent and _runs_script(parent))
    return False


def _runs_script(process: psutil.Process) -> bool:
    command: list[str] = process.cmdline()
    return any(Path(part).name in SCRIPTS for part in command[1:3])
