"""Everything that must survive: objects in SQLite (WAL, every commit on disk), contents of files beside it.

DATA/
    govor-jobs.json the server made this folder, see data_folder.py
    responses.sqlite3   answers that clients may come back to, see train/serving/response_store.py
    jobs.sqlite3    files, uploads, jobs, events, checkpoints, models: each row holds its object as the wire shows it
    files/ID        contents of uploaded files, of the parts of uploads and of results, complete or absent
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

from train.core.files import NOTE, listed, remove_leftovers
from train.core.runs import Run, discard_run
from train.jobs.change import Change, JobEntry, read_entry
from train.jobs.data_folder import DATABASE, FOLDERS, SERVER_NAME, VERSION, is_removable
from train.jobs.job_errors import log_line
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
Of the first, what is half written is ours to remove, but not what is complete: this database may be older than that."""

UPLOADS = """
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, object TEXT NOT NULL, lifetime INTEGER,
    status TEXT GENERATED ALWAYS AS (json_extract(object, '$.status')),
    expires_at INTEGER GENERATED ALWAYS AS (json_extract(object, '$.expires_at'))
);
CREATE TABLE upload_parts (
    id TEXT PRIMARY KEY, upload TEXT NOT NULL REFERENCES uploads (id), file TEXT NOT NULL, bytes INTEGER NOT NULL
);
CREATE INDEX parts_of_upload ON upload_parts (upload);
"""
"""`lifetime`: seconds that the file will have; `file`: the name under files/ of a part's contents."""
MIGRATIONS = (SCHEMA, UPLOADS)
"""What makes each version of the database out of the one before; its `user_version` is their number.

Databases of before 2026-11-29 have the version 0 and, but for what is new, these tables.
"""
assert len(MIGRATIONS) == VERSION
LOCK_WAIT = 15.0
"""Seconds that a change waits for another program that has locked the database."""


class Page(NamedTuple):
    """One page of a list."""

    objects: list[str]
    """JSON of each object."""
    has_more: bool
    """Whether objects follow after this page."""


class ModelOrigin(NamedTuple):
    """Where a fine-tuned model comes from."""

    job: str
    step: int | None
    """Step of the checkpoint; None for the job's final model."""


class NoSuchCursorError(Exception):
    """The cursor of a request names nothing in this list."""


class Store:
    """The data folder. Each thread has its own connection; a change is one transaction."""

    def __init__(self, folder: Path, database_folder: Path | None = None) -> None:
        """`database_folder`: where the databases are, if not in the data folder."""
        self.folder = folder.absolute()
        self._database = (database_folder or folder).absolute() / DATABASE
        self._local = threading.local()
        for name in FOLDERS:
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database.touch(mode=0o600)
        self._migrate()

    def _migrate(self) -> None:
        """Bring the database to the newest version, a step in one transaction each."""
        connection = self._connection
        [version] = connection.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._database, timeout=LOCK_WAIT, isolation_level=None)
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

    def object_json(self, table: str, id_: str) -> str | None:
        """JSON of an object; None where there is none or its time has come."""
        alive = " AND (expires_at IS NULL OR expires_at > unixepoch())" if table == "files" else ""
        row = self._connection.execute(f"SELECT object FROM {table} WHERE id = ?{alive}", (id_,)).fetchone()
        return row[0] if row else None

    def entry(self, id_: str) -> JobEntry | None:
        """The job of this id; None where there is none."""
        return Change(self._connection).entry(id_)

    def checkpoints(self, job: str) -> list[Checkpoint]:
        """The job's checkpoints, by step."""
        return Change(self._connection).checkpoints(job)

    def jobs_with_status(self, status: str, limit: int = -1) -> list[JobEntry]:
        """Jobs with this status, oldest first, at most `limit` of them (-1: all)."""
        query = "SELECT object, plan FROM jobs WHERE status = ? ORDER BY seq LIMIT ?"
        return [read_entry(row) for row in self._connection.execute(query, (status, limit))]

    def submitted_jobs(self) -> list[JobEntry]:
        """Jobs whose training a cluster may have."""
        query = "SELECT object, plan FROM jobs WHERE json_extract(plan, '$.submitted') ORDER BY seq"
        return [read_entry(row) for row in self._connection.execute(query)]

    def page(
        self,
        table: str,
        where: Sequence[tuple[str, Any]] = (),
        *,
        after: str | None = None,
        limit: int,
        oldest_first: bool = False,
    ) -> Page:
        """Objects of a list, newest first, beginning behind the one with the id `after`.

        where: (SQL condition, its value or values). NoSuchCursorError where no object of the list has the id `after`.
        """
        conditions = [condition for condition, _ in where]
        values = [value for _, bound in where for value in (bound if isinstance(bound, tuple) else (bound,))]
        if after is not None:
            # the cursor must stand in the same list, not just in the same table
            query = f"SELECT seq FROM {table} WHERE {' AND '.join([*conditions, 'id = ?'])}"
            cursor = self._connection.execute(query, [*values, after]).fetchone()
            if cursor is None:
                raise NoSuchCursorError(after)
            conditions.append(f"seq {'>' if oldest_first else '<'} ?")
            values.append(cursor[0])
        query = f"SELECT object FROM {table}"
        if conditions:
            query += f" WHERE {' AND '.join(conditions)}"
        query += f" ORDER BY seq {'ASC' if oldest_first else 'DESC'} LIMIT ?"
        objects = [row[0] for row in self._connection.execute(query, [*values, limit + 1])]
        return Page(objects[:limit], len(objects) > limit)

    def all_models(self) -> list[tuple[str, str]]:
        """(JSON, job) of all fine-tuned models and checkpoints, newest first."""
        return list(self._connection.execute("SELECT object, job FROM models ORDER BY seq DESC"))

    def model_origin(self, model: str) -> ModelOrigin | None:
        """The job that a fine-tuned model comes from; None where there is no such model."""
        row = self._connection.execute("SELECT job, step FROM models WHERE id = ?", (model,)).fetchone()
        return ModelOrigin(row[0], row[1]) if row else None

    def file_path(self, id_: str) -> Path:
        """Where the contents of a file lie; `id_` is one that the store made, not a client's word."""
        return self.folder / "files" / id_

    def job_folder(self, id_: str) -> Path:
        """The folder with a job's files, config and log."""
        return self.folder / "jobs" / id_

    def run(self, id_: str) -> Run:
        """The run folder of a job."""
        return Run(self.folder / "runs" / id_)

    def checkpoint_run(self, id_: str, step: int | None) -> Run:
        """The run folder that a checkpoint is served from; model_loader.py makes it."""
        return Run(self.folder / "runs" / f"{id_}-step-{step}")

    def reserve(self, id_: str) -> None:
        """Note a new id before anything is written under it: what a crash leaves of it is then known to be ours."""
        with self.change() as change:
            change.reserve(id_)

    def sweep(self) -> None:
        """Remove what a crash has left of unfinished requests and of deleted files and models.

        Only what the database has an entry for is removed, and only under names that the server gives.
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
            match = SERVER_NAME.fullmatch(path.name)
            if match and match["partial"] and self.entry(match[1]):
                remove_leftovers(path.with_name(path.name[1:].removesuffix(match["partial"])))
        for id_, deleted in unreferenced.items():
            if deleted and self.entry(id_):
                self.forget_run(id_)
        complete = {id_ for id_ in unreferenced if self.file_path(id_).exists() or self.job_folder(id_).exists()}
        # what is complete under a reserved id stays, and so does the id: the next start must know it as ours
        with self.change() as change:
            change.forget([id_ for id_, deleted in unreferenced.items() if deleted or id_ not in complete])

    def expire(self) -> None:
        """Delete the files whose time has come, and the parts of uploads that were not completed in time."""
        with self.change() as change:
            expired = change.expire_files() | change.expire_uploads()
        for id_ in expired:
            remove_file(self.file_path(id_))

    def forget_run(self, id_: str) -> None:
        """Remove a job's run folder, with the folders that its checkpoints are served from."""
        steps = [checkpoint.step_number for checkpoint in self.checkpoints(id_)]
        for run in (self.run(id_), *(self.checkpoint_run(id_, step) for step in steps)):
            self.discard(run)
        with self.change() as change:
            change.forget([id_])

    def discard(self, run: Run) -> None:
        """Remove from a run folder what training wrote; what stays is named in the log."""
        try:
            left = [path.relative_to(self.folder) for path in discard_run(run)]
        except OSError as error:  # one odd folder must not stop the server
            left = []
            log_line(f"{run.path}: not removed: {error.strerror}: {error.filename}")
        if left:
            log_line(f"{self.folder}: not the server's, left as they are: {listed(map(str, left))}")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no links, copy it."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def copy_result(run: Run, step: int | None, folder: Path) -> None:
    """Copy what other verbs read of a finished run, with the weights of its checkpoint at `step` where one is given."""
    for file in (run.config_file, run.manifest_file, run.held_out_file):
        if file.exists():  # the last version deleted held_out.jsonl where nothing was held out
            shutil.copyfile(file, folder / file.name)
    result = run.adapter if run.adapter.exists() else run.merged
    weights = () if step is None else ("*.safetensors*",)
    shutil.copytree(result, folder / result.name, ignore=shutil.ignore_patterns(*weights, NOTE))
    for file in (run.checkpoints / f"checkpoint-{step}").glob("*.safetensors*") if weights else ():
        shutil.copyfile(file, folder / result.name / file.name)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there and is one."""
    if path.is_file():
        path.unlink()
