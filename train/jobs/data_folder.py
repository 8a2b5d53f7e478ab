"""Whose folder the data folder is: made, recognised or refused before anything in it is touched.

A folder of ours holds MARKER, written when the server made it, or a database with our tables, as the last version left
it. Whatever else lies in it is a person's: it is named, and stays.
"""

import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

from train.core.errors import GovorError, MachineError
from train.core.files import ASIDE, listed, try_lock
from train.core.runs import now

MARKER = "govor-jobs.json"
DATABASE = "jobs.sqlite3"
LOCK = "server.lock"
FOLDERS = ("files", "jobs", "runs")
MISSING, EMPTY = "is not there", "is empty"
"""What may be said of the database of a folder in which nothing was stored yet."""
TABLES = {"files", "jobs", "events", "checkpoints", "models"}
OURS = re.compile(rf"\.?((?:file|ftjob)-[A-Za-z0-9]{{24}})(-step-\d+)?(?P<half>{ASIDE})?")
"""The names that the server gives: group 1 is the id; `half`: it is being written."""


class Database(NamedTuple):
    """What a database says before the server uses it."""

    problem: str | None
    """Why it cannot be ours, in words that follow its path."""
    ids: frozenset[str] = frozenset()
    """Of its files and jobs."""
    unreferenced: Mapping[str, bool] = MappingProxyType({})
    """See store.SCHEMA: id → whether it is a deleted file's."""


@contextmanager
def owned(folder: Path) -> Iterator[list[str]]:
    """The folder, ours alone while the block runs; what lies in it that is not the server's.

    GovorError, with nothing changed, where the folder is somebody's, another server has it, or its database is not the
    one that knows what lies there.
    """
    _claim(folder)
    with lock(folder):
        found = read_database(folder / DATABASE)
        _require_sound(folder, found)
        yield _strange(folder, found)


def _claim(folder: Path) -> None:
    """Make the folder, or recognise one that a server has made."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise GovorError(f"{folder} is not a folder: name another one with --data-dir")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    if (folder / MARKER).is_file():
        return
    if any(folder.iterdir()):
        if not (folder / DATABASE).is_file():
            raise GovorError(
                f"{folder} holds other things ({listed(sorted(path.name for path in folder.iterdir()), 3)}) and is no "
                "data folder of govor's: name an empty or a new one with --data-dir"
            )
        if (folder / LOCK).is_file():
            with (folder / LOCK).open(encoding="utf-8") as file:
                _require_lock(file, folder)
        found = read_database(folder / DATABASE)
        if found.problem or (not found.ids and any(_lying(folder))):
            problem = found.problem or "knows no file and no job, though some lie there"
            raise GovorError(
                f"{folder} has no {MARKER}, and its {DATABASE} {problem}; nothing was changed. Restore the database "
                "from a backup, or name an empty folder with --data-dir"
            )
    with suppress(FileExistsError), (folder / MARKER).open("x", encoding="utf-8") as file:
        json.dump({"made_by": "govor jobs serve", "since": now()}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _require_sound(folder: Path, found: Database) -> None:
    """GovorError where the database is damaged, or is not the one of what lies there."""
    for name in FOLDERS:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise GovorError(f"{folder / name} is not a folder: move it away")
    lying = list(_lying(folder))
    matches = [OURS.fullmatch(Path(name).name) for name in lying]
    orphans = any(match and match[1] not in found.unreferenced for match in matches)
    if found.problem is None and (found.ids or not orphans):
        return
    if found.problem in (MISSING, EMPTY) and not lying:
        return  # nothing was ever stored
    here = f", and beside it lie {listed(lying, 3)}" if lying else ""
    raise GovorError(
        f"{folder / DATABASE} {found.problem or 'knows no file and no job'}{here}; nothing was changed. Restore it "
        f"from a backup (with its -wal file), or move {', '.join(FOLDERS)} and {DATABASE} away to begin anew"
    )


def read_database(path: Path) -> Database:
    """Whether it is whole and ours, found out on a copy with its log: SQLite writes where it opens a database."""
    log = path.with_name(f"{path.name}-wal")
    if os.path.lexists(path) and not path.is_file():
        return Database("is not a file")
    if not path.exists() or not path.stat().st_size:
        if log.exists() and log.stat().st_size:
            return Database("is gone, but its log is not")
        return Database(EMPTY if path.exists() else MISSING)
    try:
        with _copied(path, log) as copy, closing(sqlite3.connect(copy)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return Database(EMPTY)
            if not tables >= TABLES:
                return Database("is not govor's")
            [(first,), *_] = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if first != "ok":
                return Database(f"is damaged ({' '.join(str(first).split())})")
            ids = {row[0] for row in connection.execute("SELECT id FROM files UNION SELECT id FROM jobs")}
            unreferenced = (
                connection.execute("SELECT id, deleted FROM unreferenced") if "unreferenced" in tables else ()
            )
            return Database(None, frozenset(ids), dict(unreferenced))
    except sqlite3.DatabaseError as error:
        return Database(f"cannot be read ({error})")


@contextmanager
def _copied(database: Path, log: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for path in (database, log):
            if path.is_file():
                shutil.copyfile(path, Path(folder) / path.name)
        yield Path(folder) / database.name


def _lying(folder: Path) -> Iterator[str]:
    """What lies in the server's subfolders, as SUBFOLDER/NAME; rows kept in another form do not count."""
    for name in FOLDERS:
        if (folder / name).is_dir():
            for path in sorted((folder / name).iterdir()):
                if (name, path.name) != ("runs", ".tokens"):
                    yield f"{name}/{path.name}"


def _strange(folder: Path, found: Database) -> list[str]:
    """What is not the server's."""
    own = {MARKER, DATABASE, LOCK, *FOLDERS, *(f"{DATABASE}-{kind}" for kind in ("wal", "shm", "journal"))}

    def is_known(name: str) -> bool:
        match = OURS.fullmatch(name)
        return match is not None and (match[1] in found.ids or is_removable(name, found.unreferenced))

    beside = [name for name in _lying(folder) if not is_known(Path(name).name)]
    return [*sorted(path.name for path in folder.iterdir() if path.name not in own), *beside]


def is_removable(name: str, unreferenced: Mapping[str, bool]) -> bool:
    """Whether it is half of something, or a deleted file, and the database has an entry that says so."""
    match = OURS.fullmatch(name)
    if match is None or match[1] not in unreferenced:
        return False
    return match["half"] is not None or (name.startswith("file-") and unreferenced[match[1]])


def lock(folder: Path) -> IO[str]:
    """Held while the server lives, however it dies; GovorError where another server has it."""
    if os.name != "posix":
        raise MachineError("govor jobs serve needs Linux or macOS (on Windows: WSL)")
    file = (folder / LOCK).open("a+", encoding="utf-8")
    _require_lock(file, folder)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _require_lock(file: IO[str], folder: Path) -> None:
    if not try_lock(file):
        file.seek(0)
        pid = file.read().strip()
        file.close()
        raise GovorError(f"{folder}: another server works on this folder (process {pid}): stop it first")
