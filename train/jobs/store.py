"""Everything that must survive: objects in SQLite (WAL, every commit on disk), contents of files beside it.

DATA/
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

from ..runs import Run
from .change import Change, Entry, read_entry
from .objects import Checkpoint

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
"""


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
        for name in ("files", "jobs", "runs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._connection.executescript(SCHEMA)

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.folder / "jobs.sqlite3", timeout=30, isolation_level=None)
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

    def models_of(self, job: str) -> list[str]:
        return [row[0] for row in self._connection.execute("SELECT id FROM models WHERE job = ?", (job,))]

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

    def sweep(self) -> None:
        """Remove what a crash has left of unfinished requests, and runs whose models are all deleted."""
        self.expire()
        known = {row[0] for row in self._connection.execute("SELECT id FROM files UNION SELECT id FROM jobs")}
        for path in [*self.folder.glob("files/*"), *self.folder.glob("files/.*"), *self.folder.glob("jobs/*")]:
            if path.name not in known:
                remove(path)
        query = "SELECT id FROM jobs WHERE status = 'succeeded' AND id NOT IN (SELECT job FROM models)"
        for (id_,) in self._connection.execute(query).fetchall():
            self.forget_run(id_)

    def expire(self) -> None:
        """Delete files whose time has come."""
        with self.change() as change:
            expired = change.expire_files()
        for id_ in expired:
            remove(self.file_path(id_))

    def forget_run(self, id_: str) -> None:
        """Remove a job's run folder, with the folders that its checkpoints are served from."""
        for path in self.folder.glob(f"runs/{id_}*"):
            remove(path)


def link_or_copy(source: Path, target: Path) -> None:
    """The same contents under a second name; where the file system has no links, a copy."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
