"""One change of the store: the statements of a transaction, and what the store knows of a job."""

import operator
import secrets
import sqlite3
import string
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from train.jobs.wire import Checkpoint, Event, File, Job, ModelObject, Upload, UploadPart

ID_CHARACTERS = string.ascii_letters + string.digits


class JobState(BaseModel):
    """What the server knows of a job and the wire does not show. Its JSON is the column `plan`."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    tree: dict[str, Any]
    """Sections of the job's config."""
    name_suffix: str = Field(alias="letters")
    """The eight random characters at the end of the model's name."""
    deaths_in_a_row: int = Field(default=0, alias="alone")
    """How many of its processes in a row were killed without a new step."""
    step: int = 0
    """The last step that has an event."""
    total: int = 0
    """Number of steps of the whole training; 0 before the files are checked."""
    attempts: int = Field(default=0, exclude_if=operator.not_)
    """How often its training was handed to a cluster."""
    submitted: bool = Field(default=False, exclude_if=operator.not_)
    """Whether the cluster may still have the last of these."""


class JobEntry(NamedTuple):
    """A job as the store holds it."""

    job: Job
    state: JobState

    @property
    def model_name(self) -> str:
        """The name that the model gets once the job has succeeded.

        It begins as the client named the base: some clients choose by `ft:gpt-4o-mini-…` how they talk to a model.
        """
        base, suffix = self.job.govor.requested_model, self.job.user_provided_suffix or ""
        if base.startswith("ft:"):  # goes on from a tuned model, which has the name of its base in its own
            base = base.split(":")[1]
        return f"ft:{base}:local:{suffix}:{self.state.name_suffix}"


class Change:
    """The statements of one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def entry(self, id_: str) -> JobEntry | None:
        """The job of this id; None where there is none."""
        row = self._connection.execute("SELECT object, plan FROM jobs WHERE id = ?", (id_,)).fetchone()
        return read_entry(row) if row else None

    def add_job(self, entry: JobEntry, body_hash: str, key: str | None) -> None:
        """Add a job; `body_hash` and `key` (its Idempotency-Key) tell the same request when it comes again."""
        values = (entry.job.id, entry.job.model_dump_json(), entry.state.model_dump_json(), body_hash, key)
        self._connection.execute("INSERT INTO jobs (id, object, plan, body, key) VALUES (?, ?, ?, ?, ?)", values)
        self.forget([entry.job.id])

    def save(self, entry: JobEntry) -> None:
        """Write a changed job back."""
        values = (entry.job.model_dump_json(), entry.state.model_dump_json(), entry.job.id)
        self._connection.execute("UPDATE jobs SET object = ?, plan = ? WHERE id = ?", values)

    def created_by(self, body_hash: str, since: int) -> str | None:
        """JSON of the newest job that a request with this body has created since then (unix time)."""
        query = "SELECT object FROM jobs WHERE body = ? AND created_at >= ? ORDER BY seq DESC LIMIT 1"
        row = self._connection.execute(query, (body_hash, since)).fetchone()
        return row[0] if row else None

    def created_under(self, key: str) -> tuple[str, str] | None:
        """(JSON, hash of the request's body) of the job that was created under an Idempotency-Key."""
        row = self._connection.execute("SELECT object, body FROM jobs WHERE key = ?", (key,)).fetchone()
        return (row[0], row[1]) if row else None

    def add_file(self, file: File, sha256: str) -> None:
        """Add a file whose contents are on disk."""
        values = (file.id, file.model_dump_json(), sha256)
        self._connection.execute("INSERT INTO files (id, object, sha256) VALUES (?, ?, ?)", values)
        self.forget([file.id])

    def same_file(self, file: File, sha256: str, since: int) -> str | None:
        """JSON of the newest file with these contents and this name, uploaded since then (unix time)."""
        query = """SELECT object FROM files WHERE sha256 = ? AND json_extract(object, '$.filename') = ? AND purpose = ?
                   AND json_extract(object, '$.created_at') >= ? ORDER BY seq DESC LIMIT 1"""
        row = self._connection.execute(query, (sha256, file.filename, file.purpose, since)).fetchone()
        return row[0] if row else None

    def delete(self, table: str, id_: str) -> bool:
        """Delete an object; False where there was none."""
        deleted = self._connection.execute(f"DELETE FROM {table} WHERE id = ?", (id_,)).rowcount > 0
        if deleted and table == "files":
            self.mark_deleted([id_])
        return deleted

    def delete_model(self, id_: str) -> tuple[str, int | None, bool] | None:
        """Delete a model; with a job's last model its run is marked as deleted.

        Returns (job, step of a checkpoint or None, whether it was the job's last model), or None where there was none.
        """
        query = "DELETE FROM models WHERE id = ? RETURNING job, step"
        rows = self._connection.execute(query, (id_,)).fetchall()
        if not rows:
            return None
        [(job, step)] = rows
        last = not self._connection.execute("SELECT 1 FROM models WHERE job = ?", (job,)).fetchone()
        if last:
            self.mark_deleted([job])
        return job, step, last

    def expire_files(self) -> set[str]:
        """Delete the files whose time has come; their ids."""
        query = "DELETE FROM files WHERE expires_at IS NOT NULL AND expires_at <= unixepoch() RETURNING id"
        expired = {row[0] for row in self._connection.execute(query).fetchall()}
        self.mark_deleted(expired)
        return expired

    def add_upload(self, upload: Upload, lifetime: int | None) -> None:
        """Add an upload. `lifetime`: seconds that its file will have."""
        self._connection.execute(
            "INSERT INTO uploads (id, object, lifetime) VALUES (?, ?, ?)",
            (upload.id, upload.model_dump_json(), lifetime),
        )

    def upload(self, id_: str) -> tuple[Upload, int | None] | None:
        """(the upload, seconds that its file will have); None where there is none."""
        row = self._connection.execute("SELECT object, lifetime FROM uploads WHERE id = ?", (id_,)).fetchone()
        return (Upload.model_validate_json(row[0]), row[1]) if row else None

    def add_part(self, part: UploadPart, file: str, size: int) -> None:
        """Add a part whose contents are on disk."""
        self._connection.execute("INSERT INTO upload_parts VALUES (?, ?, ?, ?)", (part.id, part.upload_id, file, size))
        self.forget([file])

    def parts(self, upload: str) -> dict[str, tuple[str, int]]:
        """Id of a part → (name of its contents, its bytes)."""
        rows = self._connection.execute("SELECT id, file, bytes FROM upload_parts WHERE upload = ?", (upload,))
        return {id_: (file, size) for id_, file, size in rows}

    def end_upload(self, upload: Upload) -> set[str]:
        """Write back an upload that is no longer pending; names of its parts' contents, which are to be removed."""
        self._connection.execute("UPDATE uploads SET object = ? WHERE id = ?", (upload.model_dump_json(), upload.id))
        query = "DELETE FROM upload_parts WHERE upload = ? RETURNING file"
        files = {row[0] for row in self._connection.execute(query, (upload.id,)).fetchall()}
        self.mark_deleted(files)
        return files

    def expire_uploads(self) -> set[str]:
        """End the uploads whose time has come; names of their parts' contents."""
        query = "SELECT object FROM uploads WHERE status = 'pending' AND expires_at <= unixepoch()"
        late = [Upload.model_validate_json(row[0]) for row in self._connection.execute(query).fetchall()]
        ended = [self.end_upload(upload.model_copy(update={"status": "expired"})) for upload in late]
        return set().union(*ended)

    def reserve(self, id_: str) -> None:
        """Note that what is half written under an id is ours to remove, until a file or a job of that id is added."""
        self._connection.execute("INSERT INTO unreferenced (id, deleted) VALUES (?, 0)", (id_,))

    def unreferenced(self) -> dict[str, bool]:
        """Reserved ids, and ids whose file or run is deleted → whether it is deleted."""
        return dict(self._connection.execute("SELECT id, deleted FROM unreferenced").fetchall())

    def forget(self, ids: Iterable[str]) -> None:
        """Drop the notes about these ids: they are a file's or a job's now, or nothing is left under them."""
        self._connection.executemany("DELETE FROM unreferenced WHERE id = ?", [(id_,) for id_ in ids])

    def mark_deleted(self, ids: Iterable[str]) -> None:
        """Note that what lies under these ids is to be removed."""
        query = "INSERT OR IGNORE INTO unreferenced (id, deleted) VALUES (?, 1)"
        self._connection.executemany(query, [(id_,) for id_ in ids])

    def add_event(self, job: str, key: str, message: str, **fields: Any) -> None:
        """Add an event, once: another one with the same key of the same job changes nothing.

        Its time is never before that of the last one, though the clock may be set back.
        """
        last = "SELECT json_extract(object, '$.created_at') FROM events WHERE job = ? ORDER BY seq DESC LIMIT 1"
        [before] = self._connection.execute(last, (job,)).fetchone() or (0,)
        event = Event(id=new_id("ftevent-"), created_at=max(int(time.time()), before), message=message, **fields)
        query = "INSERT OR IGNORE INTO events (id, object, job, key) VALUES (?, ?, ?, ?)"
        self._connection.execute(query, (event.id, event.model_dump_json(), job, key))

    def count_events(self, job: str, prefix: str) -> int:
        """How many events of the job have a key that begins so."""
        query = "SELECT count(*) FROM events WHERE job = ? AND key GLOB ?"
        return int(self._connection.execute(query, (job, f"{prefix}*")).fetchone()[0])

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint, once for each step of a job."""
        query = "INSERT OR IGNORE INTO checkpoints (id, object, job, step) VALUES (?, ?, ?, ?)"
        values = (checkpoint.id, checkpoint.model_dump_json(), checkpoint.fine_tuning_job_id, checkpoint.step_number)
        self._connection.execute(query, values)

    def add_model(self, name: str, job: str, step: int | None) -> None:
        """Add the fine-tuned model of a job, or of its checkpoint at `step`."""
        model = ModelObject(id=name, created=int(time.time()), owned_by="local")
        query = "INSERT OR IGNORE INTO models (id, object, job, step) VALUES (?, ?, ?, ?)"
        self._connection.execute(query, (name, model.model_dump_json(), job, step))

    def checkpoints(self, job: str) -> list[Checkpoint]:
        """The job's checkpoints, by step."""
        rows = self._connection.execute("SELECT object FROM checkpoints WHERE job = ? ORDER BY step", (job,))
        return [Checkpoint.model_validate_json(text) for (text,) in rows]


def new_id(prefix: str, length: int = 24) -> str:
    """The prefix with so many random letters and digits."""
    return prefix + "".join(secrets.choice(ID_CHARACTERS) for _ in range(length))


def read_entry(row: Sequence[str]) -> JobEntry:
    """The job of a row (object, plan)."""
    return JobEntry(Job.model_validate_json(row[0]), JobState.model_validate_json(row[1]))
