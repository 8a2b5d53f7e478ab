"""What was asked and what was answered, a JSON object a line: a run that was cut off goes on from there.

    {"sent": KEY, "most": [input, output]}                          before a request leaves, on disk
    {"answered": KEY, "text": …, "finish": …, "used": [input, output], "first": seconds or null, "seconds": …}
    {"failed": KEY, "why": …, "used": [input, output]}              used: [0, 0] where nothing can have been computed

A request is known by its key, a hash: the file holds no question and no API key. A request that was sent and has no
other line may have been paid for, so it counts as used to the most.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from train.core.errors import DataError, RunError
from train.core.files import append_json, lock_file, sync_folder
from train.remote.budget import Usage

BEGINNINGS = ('{"sent"', '{"answered"', '{"failed"')


class Reply(NamedTuple):
    """The answer to a request."""

    text: str
    finish: str
    """Why it ends: `stop`; `length` where it was cut off."""
    used: Usage
    first: float | None = None
    """Seconds to the first token; None where the answer did not come as a stream."""
    seconds: float | None = None
    """Seconds to its end."""


class Journal:
    """The journal's lines in memory, and the file that they are appended to."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self._file = path, file
        self.replies: dict[str, Reply] = {}
        """By key, what was answered."""
        self.used: list[Usage] = []
        """What every request of the past has used."""
        self._read()

    def _read(self) -> None:
        """Take in what is there. What a kill has left of a line is passed over; another line is an error."""
        self._file.seek(0)
        lines = self._file.read().split("\n")
        unanswered: dict[str, Usage] = {}
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                entry = json.loads(line)
                if "sent" in entry:
                    if entry["sent"] in unanswered:  # sent anew after a kill
                        self.used.append(unanswered[entry["sent"]])
                    unanswered[entry["sent"]] = Usage(*entry["most"])
                    continue
                key = entry["answered"] if "answered" in entry else entry["failed"]
                unanswered.pop(key, None)
                used = Usage(*entry["used"])
                self.used.append(used)
                if "answered" in entry:
                    times = entry.get("first"), entry.get("seconds")  # journals of earlier versions lack them
                    self.replies[key] = Reply(entry["text"], entry["finish"], used, *times)
            except (ValueError, KeyError, TypeError):
                if not line.startswith(BEGINNINGS) and not any(start.startswith(line) for start in BEGINNINGS):
                    raise DataError(f"{self.path}:{number}: no line of a journal: move the file away") from None
        self.used += unanswered.values()
        if lines[-1]:
            self._file.write("\n")  # so that the next line begins afresh

    def sent(self, key: str, most: Usage) -> None:
        append_json(self._file, {"sent": key, "most": most})

    def answered(self, key: str, reply: Reply) -> None:
        append_json(self._file, {"answered": key, **reply._asdict()})
        self.replies[key] = reply

    def failed(self, key: str, why: str, used: Usage) -> None:
        append_json(self._file, {"failed": key, "why": why, "used": used})


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at `path`, made if need be, readable by its owner alone; RunError where another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a+", encoding="utf-8", errors="replace", newline="\n") as file:
        if lock_file(file) is False:
            raise RunError(f"{path}: another process asks and writes there: wait for it, or stop it first")
        sync_folder(path.absolute().parent)
        yield Journal(path, file)
