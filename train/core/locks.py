"""One writer a folder: a lock on an open file inside it, which is gone with the process that holds it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, NamedTuple

from train.core.errors import RunError
from train.core.files import lock_file, remove_if_empty
from train.core.lease import LEASE, LeaseHeldError, hold_lease

LOCK = ".lock"
"""Name of the lock in a run folder; it lies there while somebody writes in the folder, and after a kill."""
LEASE_VARIABLE = "GOVOR_LEASE"
"""Set where other machines may want to write in the run folder too: the name under which this one holds its lease."""


class Holder(NamedTuple):
    """The process that works on a folder."""

    pid: int
    since: datetime
    """When it took the lock, to the second."""
    what: str
    """What it does, for people: training, merge."""


def lock_holder(folder: Path) -> Holder | None:
    """The process of this machine that holds a folder's lock; None where the lock was left by one that is gone.

    Its number alone proves nothing, since another program may have it by now: the process must have begun before the
    lock was taken, and on Linux have the file open. Nothing is locked to find out, so nobody is kept from working.
    """
    import psutil

    try:
        path = (folder / LOCK).resolve()
        pid, since, what = path.read_text(encoding="utf-8").split(" ", 2)
        holder, process = Holder(int(pid), datetime.fromisoformat(since), what), psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > holder.since.timestamp() + 2:
            return None
        is_open = sys.platform != "linux" or str(path) in [file.path for file in process.open_files()]
    except (OSError, ValueError, psutil.Error):
        return None
    return holder if is_open else None


def take_lock(path: Path, what: str) -> IO[str]:
    """Lock a file until the one returned is closed or this process ends; RunError that names who has it.

    `what` holds it, for people: a training, a server. Where files cannot be locked (Windows, some network drives) it is
    opened all the same.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        require_unlocked(file, path)
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        except FileNotFoundError:
            pass
        file.close()  # its last holder has removed it in between
    file.truncate(0)
    file.write(f"{os.getpid()} {datetime.now().astimezone().isoformat(timespec='seconds')} {what}")
    file.flush()
    return file


def require_unlocked(file: IO[str], path: Path) -> None:
    """Lock an open file where that can be done; RunError that names who has it, and the file closed."""
    if lock_file(file) is not False:
        return
    file.seek(0)
    pid, since, what = [*file.read().split(" ", 2), "", "", ""][:3]
    file.close()
    began = f", since {since}" if since else ""
    raise RunError(
        f"{path.parent}: another {what or 'process'} works on this folder (process {pid or 'unknown'}{began}): "
        "wait for it, or stop it first"
    )


@contextmanager
def hold_folder(folder: Path, what: str) -> Iterator[None]:
    """Let nobody else write in a run folder while the block runs; RunError where somebody does.

    The folder is made if need be, and then goes after the block if it is empty. Of several processes of a training the
    first holds it. A folder in which nothing can be written needs no lock; one that other machines may write in has a
    lease as well.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = take_lock(folder / LOCK, what)
    except PermissionError:
        yield
        return
    try:
        with _lease(folder, what):
            yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        file.close()
        if made:
            remove_if_empty(folder)


@contextmanager
def _lease(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lease, where it has or is to have one, while the block runs; RunError where somebody does."""
    name = os.environ.get(LEASE_VARIABLE)
    if name is None and not (folder / LEASE).exists():
        yield
        return
    try:
        with hold_lease(folder, name or what):
            yield
    except LeaseHeldError as error:
        raise RunError(f"{folder}: another training works on this folder: {error}: wait for it, or stop it") from None
