"""The small process between us and an engine: python supervisor.py COMMAND…

It holds the other end of its standard input. When that closes, because we closed it or because we are gone, however
that came about, it ends the engine with all its children. The operating system closes a dead process's pipes on
Linux, macOS and Windows alike, so nothing else is needed for an engine never to outlive its owner.

It imports nothing of ours: only the standard library is loaded a second time.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

KILL_AFTER = 10.0
"""Seconds that an engine may take to end by itself before it is killed."""


def main() -> int:
    """Run the command until it ends or our input closes; its exit code."""
    try:
        engine = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
        )  # a group to end as one
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", flush=True)
        return 127
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end(engine))
    threading.Thread(target=wait_for_owner, args=(engine,), daemon=True).start()
    code = engine.wait()
    end_group(engine, kill=True)  # children that the engine has left
    return code if code >= 0 else 128 - code


def wait_for_owner(engine: "subprocess.Popen[bytes]") -> None:
    """Wait until our input closes, then end the engine."""
    while os.read(0, 1024):
        pass
    end(engine)


def end(engine: "subprocess.Popen[bytes]") -> None:
    """Ask the engine to end, and kill it if it takes too long; returns at once."""
    end_group(engine, kill=False)
    timer = threading.Timer(KILL_AFTER, end_group, (engine,), {"kill": True})
    timer.daemon = True
    timer.start()


def end_group(engine: "subprocess.Popen[bytes]", *, kill: bool) -> None:
    """Ask the engine and its children to end, or kill them."""
    if os.name != "posix":
        command = ["taskkill", "/T", "/F", "/PID", str(engine.pid)]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return
    with suppress(ProcessLookupError, PermissionError):  # no process is left; macOS raises the second for zombies
        os.killpg(engine.pid, signal.SIGKILL if kill else signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
