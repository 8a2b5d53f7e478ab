"""Answers of /v1/responses that clients may come back to, in SQLite, for MAX_AGE seconds."""

import json
import os
import sqlite3
import time
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from train.chats.rows import Message

MAX_AGE = 30 * 24 * 3600
"""Seconds that a response is kept, as OpenAI keeps them."""
LOCK_WAIT = 15.0
"""Seconds that a change waits for another program that has locked the database."""


class StoredResponse(NamedTuple):
    """A response as it was stored."""

    object: str
    """Its JSON, as the wire shows it."""
    messages: list[Message]
    """The conversation up to its answer, without the `instructions`, which hold for one answer alone."""


class ResponseStore:
    """The responses of one server. Its methods block, and any thread may call them.

    Each response holds its whole conversation, so that deleting one leaves those after it whole.
    """

    def __init__(self, path: Path | None) -> None:
        """`path`: the database; None for one that is gone with the server."""
        if path is not None:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = Lock()
        # "" is a temporary database: SQLite puts it on disk when it grows, under no name
        self._connection = sqlite3.connect(path or "", timeout=LOCK_WAIT, isolation_level=None, check_same_thread=False)
        self._connection.executescript(
            """
            PRAGMA secure_delete = ON;
            CREATE TABLE IF NOT EXISTS responses (
                id TEXT PRIMARY KEY, object TEXT NOT NULL, messages TEXT NOT NULL, expires_at INTEGER NOT NULL
            );
            CREATE INDEX IF NOT EXISTS responses_by_age ON responses (expires_at);
            """
        )
        self.expire()

    def add(self, response: dict[str, Any], messages: list[Message]) -> None:
        """Store a response, and delete those whose time has come."""
        self.expire()
        texts = [json.dumps(value, ensure_ascii=False) for value in (response, messages)]
        values = (response["id"], *texts, int(time.time()) + MAX_AGE)
        with self._lock:
            self._connection.execute("INSERT INTO responses VALUES (?, ?, ?, ?)", values)

    def find(self, id_: str) -> StoredResponse | None:
        """The response of this id; None where there is none or its time has come."""
        query = "SELECT object, messages FROM responses WHERE id = ? AND expires_at > ?"
        with self._lock:
            row = self._connection.execute(query, (id_, int(time.time()))).fetchone()
        return StoredResponse(row[0], json.loads(row[1])) if row else None

    def delete(self, id_: str) -> bool:
        """Delete a response; False where there was none."""
        with self._lock:
            return self._connection.execute("DELETE FROM responses WHERE id = ?", (id_,)).rowcount > 0

    def expire(self) -> None:
        """Delete the responses whose time has come."""
        with self._lock:
            self._connection.execute("DELETE FROM responses WHERE expires_at <= ?", (int(time.time()),))

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
