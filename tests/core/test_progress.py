"""A long task says how far it is; a short one says nothing."""

import os
import pty
import subprocess
import sys
import time

import pytest

from train.core import progress as module
from train.core.progress import progress, track

SLOW = """
import time
from train.core import progress
progress.SILENCE = 0.1
for _ in progress.track(range(3), "rows", 3):
    time.sleep(0.2)
"""


def test_a_short_task_is_silent(capsys):
    assert module.SILENCE <= 5
    assert list(track(range(3), "rows", 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_step_that_takes_long_is_told_while_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(module, "SILENCE", 0.05)
    with progress("loading x"):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and lines[0] == "loading x: 0 s"


def test_what_is_done_is_told(monkeypatch, capsys):
    monkeypatch.setattr(module, "SILENCE", 0.05)
    for _ in track(range(2), "rows", 2000):
        time.sleep(0.2)
    told = capsys.readouterr().err
    assert "rows: 0 of 2,000, 0 s" in told and "rows: 1 of 2,000, 0 s" in told


def test_it_ends_with_an_error(monkeypatch, capsys):
    monkeypatch.setattr(module, "SILENCE", 0.05)
    with pytest.raises(ValueError, match="no"), progress("rows"):
        raise ValueError("no")
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_of_several_processes_one_speaks():
    environment = {**os.environ, "RANK": "1"}
    assert subprocess.run([sys.executable, "-c", SLOW], capture_output=True, env=environment, check=True).stderr == b""


def test_a_terminal_gets_a_bar_that_goes():
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SLOW], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "rows" in shown and "/3" in shown and "\x1b[2K" in shown
