"""One trainer a run folder, also where several machines share it: a lease that beats while its holder lives.

The kernels of two machines may know nothing of each other's locks, and their clocks differ. So the holder's beat in the
lease is a number that grows, and who wants the folder watches whether it still does. A process of its own beats (this
file is its script): loading torch may keep the trainer's own threads from running for longer than EXPIRY. It ends the
trainer when the lease has become another's or cannot be kept up, and tells it when others ask it to stop.
"""

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEASE = ".lease"
"""Name of the lease in a run folder; a training whose machine was lost leaves it there."""
BEAT = 1.0
"""Seconds between two beats."""
EXPIRY = 15.0
"""Seconds without a beat after which the holder counts as gone. Network drives show a change within these."""
RECORD = 256
"""Bytes of the holder's record. STOP stands behind it, for others to write: so neither overwrites the other."""
STOP = b"stop"


class LeaseHeldError(Exception):
    """Somebody who lives holds the lease; the message is who."""


class LeaseWatch:
    """Whether the training of a run folder is alive on any machine, as far as its lease shows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEASE
        self._seen: bytes | None = None
        self._changed = 0.0

    def alive(self) -> bool:
        """Whether it has beaten within EXPIRY. Of a lease that is seen for the first time this is assumed."""
        record = _record(self._path)
        if record != self._seen:
            self._seen, self._changed = record, time.monotonic()
        return record is not None and time.monotonic() - self._changed < EXPIRY

    def ask_to_stop(self) -> None:
        """Ask the holder to save and end."""
        with suppress(FileNotFoundError), self._path.open("r+b") as file:
            file.seek(RECORD)
            file.write(STOP)


@contextmanager
def hold_lease(folder: Path, name: str) -> Iterator[None]:
    """Hold a folder's lease under a name while the block runs; LeaseHeldError where somebody does who lives.

    Where a holder has gone without a word it takes EXPIRY seconds to know.
    """
    path = folder / LEASE
    own = _take(path, name)
    keeper = subprocess.Popen([sys.executable, "-P", __file__, path, own, str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        keeper.kill()
        keeper.wait()
        _release(path, own)


def _take(path: Path, name: str) -> str:
    """Write a record of our own into the lease: what it begins with."""
    own = f"{secrets.token_hex(8)} {name} (process {os.getpid()} on {socket.gethostname()})"[: RECORD - 32]
    while True:
        with suppress(FileExistsError), path.open("xb") as file:
            file.write(_beat(own, 0))
            return own
        watch, first = LeaseWatch(path.parent), _record(path)
        while watch.alive():
            if _record(path) not in (first, None):
                raise LeaseHeldError(_holder(path))
            time.sleep(BEAT / 4)
        with suppress(FileNotFoundError), path.open("r+b") as file:
            file.write(_beat(own, 0))
            file.truncate()
            file.flush()
            time.sleep(2 * BEAT)  # of two that come at once the later has overwritten the other
            if not (_record(path) or b"").startswith(own.encode()):
                raise LeaseHeldError(_holder(path))
            return own


def _record(path: Path) -> bytes | None:
    """The holder's record; None where there is no lease."""
    try:
        with path.open("rb") as file:
            return file.read(RECORD)
    except FileNotFoundError:
        return None


def _holder(path: Path) -> str:
    """Who holds the lease, for people."""
    return (_record(path) or b"").decode(errors="replace").partition(" ")[2].rpartition(")")[0] + ")"


def _beat(own: str, number: int) -> bytes:
    return f"{own} {number}".ljust(RECORD - 1).encode() + b"\n"


def _release(path: Path, own: str) -> None:
    if (_record(path) or b"").startswith(own.encode()):
        path.unlink(missing_ok=True)


def keep(path: Path, own: str, trainer: int) -> None:
    """Beat until the trainer ends, whose child we are; end it where the lease is lost."""
    for ignored in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)  # they are for the trainer, which may have to save
    beaten, stopping = time.monotonic(), False
    for number in itertools.count(1):
        if os.getppid() != trainer:
            _release(path, own)
            return
        try:
            with path.open("r+b") as file:
                content = file.read()
                if not content.startswith(own.encode()):
                    break
                file.seek(0)
                file.write(_beat(own, number))
                file.flush()
                os.fsync(file.fileno())
            beaten = time.monotonic()
            if content[RECORD:] == STOP and not stopping:
                stopping = True
                os.kill(trainer, signal.SIGTERM)
        except FileNotFoundError:
            break
        except OSError:
            if time.monotonic() - beaten > EXPIRY - 2 * BEAT:
                break
        time.sleep(BEAT)
    print(f"error: {path.parent}: another training works on this folder, or its drive is gone", file=sys.stderr)
    os.kill(trainer, signal.SIGKILL)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
