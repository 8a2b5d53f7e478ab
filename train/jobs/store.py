"""Everything that must survive: objects in SQLite (WAL, every commit on disk), contents of files beside it.

DATA/
    govor-jobs.json the server made this folder, see data_folder.py
    jobs.sqlite3    files, jobs, events, checkpoints, models: each row holds its object as the wire shows it
    files/ID        contents of uploaded files and results, complete or absent
    jobs/ID/        train.jsonl, valid.jsonl (links: a deleted file goes on training), config.yaml, output.log
    runs/ID/        the run folder of the job
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from train.core.files import listed, remove_leftovers
from train.core.runs import Run, discard_run
from train.jobs.change import Change, Entry, read_entry
from train.jobs.data_folder import DATABASE, FOLDERS, OURS, is_removable
from train.jobs.job_errors import say
from train.jobs.wire import Checkpoint

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, object TEXT NOT NULL, sha256 TEXT NOT NULL,
    purpose TEXT GENERATED ALWAYS AS (json_extract(object, '$.purpose')),
    expires_at INTEGER GENERATED ALWAYS AS (json_extract(object, '$.expires_at'))
);
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, object TEXT NOT NULL, plan TEXT NOT NULL,
    body TEXT NOT NULL, key TEXT UNIQUE,
    status TEXT GENERATED ALWAYS AS (json_extract(object, '$.status')),
    created_at INTEGER GENERATED ALWAYS AS (json_extract(object, '$.created_at'))
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE INDEX IF NOT EXISTS jobs_by_body ON jobs (body);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, object TEXT NOT NULL,
    job TEXT NOT NULL, key TEXT NOT NULL, UNIQUE (job, key)
);
CREATE INDEX IF NOT EXISTS events_of_job ON events (job, seq);
CREATE TABLE IF NOT EXISTS checkpoints (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, object TEXT NOT NULL,
    job TEXT NOT NULL, step INTEGER NOT NULL, UNIQUE (job, step)
);
CREATE TABLE IF NOT EXISTS models (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, object TEXT NOT NULL,
    job TEXT NOT NULL, step INTEGER
);
CREATE TABLE IF NOT EXISTS unreferenced (id TEXT PRIMARY KEY, deleted INTEGER NOT NULL);
"""
"""`unreferenced`: ids of files and jobs that are not there yet, of deleted files, and of jobs whose models are deleted.
Of the first, what is half written is ours to remove, but not what is whole: this database may be older than that."""


class Page(NamedTuple):
    objects: list[str]
    """JSON of each object."""
    has_more: bool


class NoSuchCursorError(Exception):
    """`after` names nothing in this list."""


class Store:
    """The data folder. Each thread has its own connection; a change is one transaction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._local = threading.local()
        for name in FOLDERS:
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / DATABASE).touch(mode=0o600)
        self._connection.executescript(SCHEMA)

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.folder / DATABASE, timeout=30, isolation_level=None)
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            self._local.connection = connection
        return connection

    @contextmanager
    def change(self) -> Iterator[Change]:
        """One transaction: all of it is on disk when the block ends, or none of it."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield Change(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def text(self, table: str, id_: str) -> str | None:
        """An object's JSON."""
        alive = " AND (expires_at IS NULL OR expires_at > unixepoch())" if table == "files" else ""
        found = self._connection.execute(f"SELECT object FROM {table} WHERE id = ?{alive}", (id_,)).fetchone()
        return found[0] if found else None

    def entry(self, id_: str) -> Entry | None:
        return Change(self._connection).entry(id_)

    def checkpoints(self, job: str) -> list[Checkpoint]:
        """By step."""
        return Change(self._connection).checkpoints(job)

    def with_status(self, status: str, limit: int = -1) -> list[Entry]:
        """Jobs in this state, oldest first; `limit`: no more than these."""
        query = "SELECT object, plan FROM jobs WHERE status = ? ORDER BY seq LIMIT ?"
        return [read_entry(row) for row in self._connection.execute(query, (status, limit))]

    def page(
        self,
        table: str,
        where: Sequence[tuple[str, Any]] = (),
        *,
        after: str | None = None,
        limit: int,
        oldest_first: bool = False,
    ) -> Page:
        """Objects of a list, newest first, beginning behind the one with the id `after`."""
        conditions = [condition for condition, _ in where]
        values = [value for _, given in where for value in (given if isinstance(given, tuple) else (given,))]
        if after is not None:
            # the cursor must stand in the same list, not just in the same table
            query = f"SELECT seq FROM {table} WHERE {' AND '.join([*conditions, 'id = ?'])}"
            found = self._connection.execute(query, [*values, after]).fetchone()
            if found is None:
                raise NoSuchCursorError(after)
            conditions.append(f"seq {'>' if oldest_first else '<'} ?")
            values.append(found[0])
        query = f"SELECT object FROM {table}"
        if conditions:
            query += f" WHERE {' AND '.join(conditions)}"
        query += f" ORDER BY seq {'ASC' if oldest_first else 'DESC'} LIMIT ?"
        objects = [row[0] for row in self._connection.execute(query, [*values, limit + 1])]
        return Page(objects[:limit], len(objects) > limit)

    def all_models(self) -> list[str]:
        """Fine-tuned models and checkpoints, newest first."""
        return [row[0] for row in self._connection.execute("SELECT object FROM models ORDER BY seq DESC")]

    def origin(self, model: str) -> tuple[str, int | None] | None:
        """(job, step of a checkpoint or None) of a fine-tuned model."""
        row = self._connection.execute("SELECT job, step FROM models WHERE id = ?", (model,)).fetchone()
        return (row[0], row[1]) if row else None

    def file_path(self, id_: str) -> Path:
        """Where the contents of a file lie; `id_` is one that the store made."""
        return self.folder / "files" / id_

    def job_folder(self, id_: str) -> Path:
        return self.folder / "jobs" / id_

    def run(self, id_: str) -> Run:
        return Run(self.folder / "runs" / id_)

    def checkpoint_run(self, id_: str, step: int | None) -> Run:
        """The run folder that a checkpoint is served from; chats.py makes it."""
        return Run(self.folder / "runs" / f"{id_}-step-{step}")

    def reserve(self, id_: str) -> None:
        """Before anything is written under a new id: what a crash leaves of it is then known to be ours."""
        with self.change() as change:
            change.reserve(id_)

    def sweep(self) -> None:
        """Remove what a crash has left of unfinished requests and of deleted files and models.

        Only what the database has an entry for goes, and only under names that the server gives.
        """
        self.expire()
        with self.change() as change:
            unreferenced = change.unreferenced()
        for path in self.folder.glob("files/*"):
            if is_removable(path.name, unreferenced):
                remove_file(path)
        for path in self.folder.glob("jobs/*"):
            if is_removable(path.name, unreferenced) and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("runs/.*"):
            match = OURS.fullmatch(path.name)
            if match and match["half"] and self.entry(match[1]):
                remove_leftovers(path.with_name(path.name[1:].removesuffix(match["half"])))
        for id_, deleted in unreferenced.items():
            if deleted and self.entry(id_):
                self.forget_run(id_)
        whole = {id_ for id_ in unreferenced if self.file_path(id_).exists() or self.job_folder(id_).exists()}
        # what is whole under a reserved id stays, and so does the id: the next start must know it as ours
        with self.change() as change:
            change.forget([id_ for id_, deleted in unreferenced.items() if deleted or id_ not in whole])

    def expire(self) -> None:
        """Delete files whose time has come."""
        with self.change() as change:
            expired = change.expire_files()
        for id_ in expired:
            remove_file(self.file_path(id_))

    def forget_run(self, id_: str) -> None:
        """Remove a job's run folder, with the folders that its checkpoints are served from."""
        for run in (self.run(id_), *(self.checkpoint_run(id_, one.step_number) for one in self.checkpoints(id_))):
            self.discard(run)
        with self.change() as change:
            change.forget([id_])

    def discard(self, run: Run) -> None:
        """Remove what is the server's of a run folder; what stays is named in the log."""
        try:
            left = [path.relative_to(self.folder) for path in discard_run(run)]
        except OSError as error:  # one odd folder must not stop the server
            left = []
            say(f"{run.path}: not removed: {error.strerror}: {error.filename}")
        if left:
            say(f"{self.folder}: not the server's, left as they are: {listed(map(str, left))}")


def link_or_copy(source: Path, target: Path) -> None:
    """The same contents under a second name; where the file system has no links, a copy."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def remove_file(path: Path) -> None:
    """Remove the contents of a file, if they are there and are a file."""
    if path.is_file():
        path.unlink()
