"""Whose folder the data folder is: made, recognised or refused before anything in it is touched.

A folder of ours holds DATA_MARKER, written when the server made it, or a database with our tables, as the last version
left it. Whatever else lies in it is a person's: it is named, and stays.
"""

import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

from train.core.errors import GovorError, MachineError
from train.core.files import ASIDE, listed
from train.core.locks import require_unlocked, take_lock
from train.core.runs import now

DATA_MARKER = "govor-jobs.json"
DATABASE = "jobs.sqlite3"
RESPONSES = "responses.sqlite3"
"""Answers of /v1/responses that clients may come back to."""
LOCK = "server.lock"
PROBE = ".probe"
"""What the server writes for the nodes of a cluster to copy, each to a file with its id behind the name."""
FOLDERS = ("files", "jobs", "runs")
VERSION = 2
"""The version of the database that this govor writes."""
MISSING, EMPTY = "is not there", "is empty"
"""The problems that the database of a folder may have in which nothing was stored yet."""
TABLES = {"files", "jobs", "events", "checkpoints", "models"}
SERVER_NAME = re.compile(rf"\.?((?:file|ftjob)-[A-Za-z0-9]{{24}})(-step-\d+)?(?P<partial>{ASIDE})?")
"""The names that the server gives files and folders: group 1 is the id, `partial` marks what is being written."""


def models_of(run: Path) -> list[str]:
    """What a jobs server calls the models of a run folder of its own; empty where the folder is nobody's job."""
    database = run.absolute().parent.parent / DATABASE
    if run.absolute().parent.name != "runs" or not database.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            job = run.absolute().name.partition("-step-")[0]
            return [row[0] for row in connection.execute("SELECT id FROM models WHERE job = ?", (job,))]
    except sqlite3.Error as error:
        raise GovorError(f"{database}: {error}, so that the names of the run's models are not known") from None


class DatabaseReport(NamedTuple):
    """What was read from a database before the server uses it."""

    problem: str | None
    """Why it cannot be ours, as a phrase that follows its path; None where it is sound."""
    ids: frozenset[str] = frozenset()
    """Ids of its files and jobs."""
    unreferenced: Mapping[str, bool] = MappingProxyType({})
    """Id → whether it is a deleted file's; see store.SCHEMA."""


@contextmanager
def claim_data_folder(folder: Path, database_folder: Path | None = None) -> Iterator[list[str]]:
    """Hold the data folder while the block runs; yields the names of what lies in it and is not the server's.

    GovorError, with nothing changed, where the folder is somebody's, another server has it, or its database is not the
    one that knows what lies there. `database_folder`: where the databases are, if not in it: the folder may be shared
    with other machines, and SQLite's locks are one machine's.
    """
    _make_or_recognise(folder)
    with ExitStack() as held:
        held.enter_context(lock_folder(folder))
        if database_folder is not None:
            database_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            held.enter_context(lock_folder(database_folder))
        path = (database_folder or folder) / DATABASE
        database = read_database(path)
        _require_sound(folder, path, database)
        yield _foreign(folder, database)


def _make_or_recognise(folder: Path) -> None:
    """Make the folder, or recognise one that a server has made."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise GovorError(f"{folder} is not a folder: name another one with --data-dir")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    if (folder / DATA_MARKER).is_file():
        return
    if any(folder.iterdir()):
        if not (folder / DATABASE).is_file():
            raise GovorError(
                f"{folder} holds other things ({listed(sorted(path.name for path in folder.iterdir()), 3)}) and is no "
                "data folder of govor's: name an empty or a new one with --data-dir"
            )
        if (folder / LOCK).is_file():
            with (folder / LOCK).open(encoding="utf-8") as file:
                require_unlocked(file, folder / LOCK)
        database = read_database(folder / DATABASE)
        if database.problem or (not database.ids and any(_stored(folder))):
            problem = database.problem or "knows no file and no job, though some lie there"
            raise GovorError(
                f"{folder} has no {DATA_MARKER}, and its {DATABASE} {problem}; nothing was changed. "
                "Restore the database from a backup, or name an empty folder with --data-dir"
            )
    with suppress(FileExistsError), (folder / DATA_MARKER).open("x", encoding="utf-8") as file:
        json.dump({"made_by": "govor jobs serve", "since": now()}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _require_sound(folder: Path, path: Path, database: DatabaseReport) -> None:
    """GovorError where the database is damaged, or does not know what is stored beside it."""
    for name in FOLDERS:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise GovorError(f"{folder / name} is not a folder: move it away")
    stored = list(_stored(folder))
    matches = [SERVER_NAME.fullmatch(Path(name).name) for name in stored]
    orphans = any(match and match[1] not in database.unreferenced for match in matches)
    if database.problem is None and (database.ids or not orphans):
        return
    if database.problem in (MISSING, EMPTY) and not stored:
        return  # nothing was ever stored
    here = f", and {'beside it' if path.parent == folder else f'in {folder}'} lie {listed(stored, 3)}" if stored else ""
    raise GovorError(
        f"{path} {database.problem or 'knows no file and no job'}{here}; nothing was changed. Restore it "
        f"from a backup (with its -wal file), or move {', '.join(FOLDERS)} and {DATABASE} away to begin anew"
    )


def read_database(path: Path) -> DatabaseReport:
    """Check a database and read its ids, on a copy with its log: SQLite writes where it opens a database."""
    log = path.with_name(f"{path.name}-wal")
    if os.path.lexists(path) and not path.is_file():
        return DatabaseReport("is not a file")
    if not path.exists() or not path.stat().st_size:
        if log.exists() and log.stat().st_size:
            return DatabaseReport("is gone, but its log is not")
        return DatabaseReport(EMPTY if path.exists() else MISSING)
    try:
        with _temporary_copy(path, log) as copy, closing(sqlite3.connect(copy)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return DatabaseReport(EMPTY)
            if not tables >= TABLES:
                return DatabaseReport("is not govor's")
            [version] = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                return DatabaseReport(
                    f"is of a newer govor (version {version}, this one knows {VERSION}): update govor"
                )
            [(first,), *_] = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if first != "ok":
                return DatabaseReport(f"is damaged ({' '.join(str(first).split())})")
            ids = {row[0] for row in connection.execute("SELECT id FROM files UNION SELECT id FROM jobs")}
            if "upload_parts" in tables:
                ids |= {row[0] for row in connection.execute("SELECT file FROM upload_parts")}
            unreferenced = (
                connection.execute("SELECT id, deleted FROM unreferenced") if "unreferenced" in tables else ()
            )
            return DatabaseReport(None, frozenset(ids), dict(unreferenced))
    except sqlite3.DatabaseError as error:
        return DatabaseReport(f"cannot be read ({error})")


@contextmanager
def _temporary_copy(database: Path, log: Path) -> Iterator[Path]:
    """Path of a copy of the database, beside a copy of its log."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (database, log):
            if path.is_file():
                shutil.copyfile(path, Path(folder) / path.name)
        yield Path(folder) / database.name


def _stored(folder: Path) -> Iterator[str]:
    """What lies in the server's subfolders, as SUBFOLDER/NAME, less the cache of encoded rows."""
    for name in FOLDERS:
        if (folder / name).is_dir():
            for path in sorted((folder / name).iterdir()):
                if (name, path.name) != ("runs", ".tokens"):
                    yield f"{name}/{path.name}"


def _foreign(folder: Path, database: DatabaseReport) -> list[str]:
    """Names of what lies in the folder and is not the server's."""
    databases = [f"{name}{end}" for name in (DATABASE, RESPONSES) for end in ("", "-wal", "-shm", "-journal")]
    own = {DATA_MARKER, LOCK, *FOLDERS, *databases}

    def is_own(name: str) -> bool:
        match = SERVER_NAME.fullmatch(name)
        return match is not None and (match[1] in database.ids or is_removable(name, database.unreferenced))

    beside = [name for name in _stored(folder) if not is_own(Path(name).name)]
    names = (path.name for path in folder.iterdir() if not path.name.startswith(PROBE))
    return [*sorted(name for name in names if name not in own), *beside]


def is_removable(name: str, unreferenced: Mapping[str, bool]) -> bool:
    """Whether it is half written, or a deleted file, and the database has an entry that says so."""
    match = SERVER_NAME.fullmatch(name)
    if match is None or match[1] not in unreferenced:
        return False
    return match["partial"] is not None or (name.startswith("file-") and unreferenced[match[1]])


def lock_folder(folder: Path) -> IO[str]:
    """Lock the folder until the file is closed or this process ends; GovorError where another server has it."""
    if os.name != "posix":
        raise MachineError("govor jobs serve needs Linux or macOS (on Windows: WSL)")
    return take_lock(folder / LOCK, "server")
