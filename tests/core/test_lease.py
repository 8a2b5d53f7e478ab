"""The lease of a run folder, among processes that know nothing of each other's locks, as on different machines."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from train.core import lease, locks
from train.core.errors import RunError
from train.core.lease import LEASE, LeaseHeldError, LeaseWatch, hold_lease

pytestmark = pytest.mark.slow
SHORT = 4.0
"""Seconds for EXPIRY, so that the tests wait less; there are several beats in it."""
HOLD = f"""
import sys, time
from pathlib import Path
from train.core import lease
lease.EXPIRY = {SHORT}
try:
    with lease.hold_lease(Path(sys.argv[1]), sys.argv[2]):
        print("held", flush=True)
        time.sleep(60)
except lease.LeaseHeldError as error:
    print("refused", error, flush=True)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(lease, "EXPIRY", SHORT)


@pytest.fixture
def start(tmp_path):
    """A function that starts a process which holds the lease of `tmp_path`."""
    with ExitStack() as stack:

        def start(name: str = "a") -> subprocess.Popen:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLD, str(tmp_path), name],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                )
            )  # fmt: skip
            stack.callback(process.kill)
            return process

        yield start


def machine(process: subprocess.Popen) -> list[psutil.Process]:
    """The trainer and its keeper, which are lost together with their machine."""
    found = psutil.Process(process.pid)
    return [*found.children(), found]


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_one_is_refused_while_the_first_lives(tmp_path, start):
    first = start("ftjob-a-1")
    assert first.stdout.readline() == "held\n"
    for _ in range(2):
        with pytest.raises(LeaseHeldError, match=rf"^ftjob-a-1 \(process {first.pid} on "), hold_lease(tmp_path, "b"):
            pass
    assert LeaseWatch(tmp_path).alive()


def test_it_is_free_at_once_when_the_holder_is_killed(tmp_path, start):
    first = start()
    first.stdout.readline()
    first.kill()
    first.wait()
    wait_for(lambda: not (tmp_path / LEASE).exists(), 3 * lease.BEAT)
    with hold_lease(tmp_path, "b"):
        assert LeaseWatch(tmp_path).alive()
    assert [*tmp_path.iterdir()] == []


def test_a_lost_machine_is_waited_for(tmp_path, start):
    first = start()
    first.stdout.readline()
    for process in machine(first):
        process.kill()
    first.wait()
    watch, began = LeaseWatch(tmp_path), time.monotonic()
    assert watch.alive()
    with hold_lease(tmp_path, "b"):
        assert SHORT - 1 <= time.monotonic() - began <= SHORT + 4 * lease.BEAT
        assert watch.alive(), "the new holder's"
    assert not watch.alive()


def test_a_machine_that_comes_back_ends_its_training(tmp_path, start):
    first = start()
    first.stdout.readline()
    for process in machine(first):
        process.suspend()
    second = start("b")
    assert second.stdout.readline() == "held\n"
    for process in machine(first):
        process.resume()
    assert first.wait(4 * lease.BEAT) == -signal.SIGKILL
    assert "another training works on this folder" in first.stderr.read()
    time.sleep(2 * lease.BEAT)
    assert second.poll() is None and b" b (process" in (tmp_path / LEASE).read_bytes()


def test_of_two_that_come_at_once_one_has_it(tmp_path, start):
    first = start()
    first.stdout.readline()
    for process in machine(first):
        process.kill()
    first.wait()
    answers = sorted(process.stdout.readline().split()[0] for process in [start("b"), start("c")])
    assert answers == ["held", "refused"]


def test_the_holder_is_asked_to_stop(tmp_path, start):
    first = start()
    first.stdout.readline()
    time.sleep(1.5 * lease.BEAT)
    LeaseWatch(tmp_path).ask_to_stop()
    assert first.wait(4 * lease.BEAT) == -signal.SIGTERM


def test_a_run_folder_with_a_lease_is_held_by_it(tmp_path, start, monkeypatch):
    """Also by who has not been told of other machines: a person who resumes or merges."""
    monkeypatch.delenv(locks.LEASE_VARIABLE, raising=False)
    first = start()
    first.stdout.readline()
    text = f"{tmp_path}: another training works on this folder: a "
    with pytest.raises(RunError, match=text), locks.hold_folder(tmp_path, "merge"):
        pass
    first.kill()
    first.wait()
    wait_for(lambda: not (tmp_path / LEASE).exists(), 3 * lease.BEAT)
    with locks.hold_folder(tmp_path, "merge"):
        assert not (tmp_path / LEASE).exists(), "on one machine the lock will do"
    monkeypatch.setenv(locks.LEASE_VARIABLE, "ftjob-a-1")
    with locks.hold_folder(tmp_path, "training"):
        assert b" ftjob-a-1 (process" in Path(tmp_path, LEASE).read_bytes()
    assert [*tmp_path.iterdir()] == []
