"""How far a long task is, on stderr: a bar on a terminal, a line every few seconds where nobody watches."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
SILENCE = 5.0
"""Seconds after which a task that has said nothing says how far it is."""


@contextmanager
def progress(
    task: str, total: int | None = None, note: Callable[[], str] | None = None
) -> Iterator[Callable[[int], None]]:
    """Within the block `task` is shown with what is done of `total`; call the function with what is done so far.

    `note`: what else is to be said at the time, such as what it has cost.

    On a terminal the bar goes when the block ends. Elsewhere nothing is printed of a block that takes under SILENCE
    seconds. A thread of its own shows it, so that a step may take as long as it does. Of several processes the first
    shows it.
    """
    if os.environ.get("RANK", "0") != "0":  # one process of several speaks
        yield lambda done: None
    elif sys.stderr.isatty():
        with _bar(task, total, note) as update:
            yield update
    else:
        with _lines(task, total, note) as update:
            yield update


def track(items: Iterable[Item], task: str, total: int) -> Iterator[Item]:
    """The items, one after another; on stderr how many of them are done."""
    with progress(task, total) as update:
        for done, item in enumerate(items):
            update(done)
            yield item


@contextmanager
def _lines(task: str, total: int | None, note: Callable[[], str] | None) -> Iterator[Callable[[int], None]]:
    done, started, ended = 0, time.monotonic(), threading.Event()

    def update(now: int) -> None:
        nonlocal done
        done = now

    def print_lines() -> None:
        while not ended.wait(SILENCE):
            seconds = time.monotonic() - started
            of_all = f" {done:,} of {total:,}," if total else ""
            more = f", {note()}" if note else ""
            if note and total and done:
                more = f", about {seconds * (total - done) / done:.0f} s left{more}"
            print(f"{task}:{of_all} {seconds:.0f} s{more}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=print_lines, name="progress", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(task: str, total: int | None, note: Callable[[], str] | None) -> Iterator[Callable[[int], None]]:
    from rich import progress as columns
    from rich.console import Console

    count = (columns.BarColumn(), columns.MofNCompleteColumn(), columns.TimeRemainingColumn())
    last = count if total else (columns.TimeElapsedColumn(),)
    name = columns.TextColumn("{task.description}")
    with columns.Progress(name, *last, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(task, total=total)
        yield lambda done: bar.update(shown, completed=done, description=f"{task} ({note()})" if note else task)
