"""Conversations and feedback of the bot's users, in SQLite, and the file of feedback rows that is made from it."""

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.chats.rows import Message

DATABASE = "bot.sqlite3"
FEEDBACK = "feedback.jsonl"
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
PRAGMA temp_store = MEMORY;
CREATE TABLE IF NOT EXISTS turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT, update_id INTEGER NOT NULL UNIQUE, chat INTEGER NOT NULL,
    user INTEGER NOT NULL, messages TEXT NOT NULL, question TEXT, answer TEXT, rejected TEXT, liked INTEGER
);
CREATE INDEX IF NOT EXISTS turns_by_user ON turns (user, chat);
CREATE TABLE IF NOT EXISTS handled (update_id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS feedback (turn INTEGER PRIMARY KEY, user INTEGER NOT NULL, row TEXT NOT NULL);
"""
"""`handled` has the updates that Telegram may deliver again, `feedback` outlives the turns that it is about."""
COLUMNS = "id, update_id, chat, user, messages, question, answer, rejected, liked"


class Turn(NamedTuple):
    """A question and its answer."""

    id: int
    update_id: int
    chat: int
    user: int
    messages: list[int]
    """Ids of Telegram's messages that show the answer."""
    question: str
    answer: str
    """Empty while it is being written."""
    rejected: str | None
    """The answer that this one replaced, because the user asked for another."""
    liked: bool | None


class Store:
    """The bot's folder. One process and one thread use it.

    A transaction is safe from a kill of the process when it returns, and from a loss of power after `secure`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_RDWR, 0o600))
        self._connection = sqlite3.connect(folder / DATABASE, timeout=15)
        self._connection.executescript(SCHEMA)
        self._connection.execute(f"SELECT {COLUMNS} FROM turns LIMIT 0")  # or it is another program's
        self._write_feedback()  # a kill may have come between a vote and its row

    def find_turn(self, *, update_id: int | None = None, id_: int | None = None) -> Turn | None:
        """The turn of this update, or of this id; None where there is none."""
        column, value = ("update_id", update_id) if id_ is None else ("id", id_)
        row = self._connection.execute(f"SELECT {COLUMNS} FROM turns WHERE {column} = ?", (value,)).fetchone()
        return _turn(row) if row else None

    def history(self, chat: int, user: int, before: int | None = None) -> list[Turn]:
        """The answered turns of a user in a chat, in order; those before a turn of that id."""
        query = f"SELECT {COLUMNS} FROM turns WHERE user = ? AND chat = ? AND answer IS NOT NULL AND id < ? ORDER BY id"
        return [_turn(row) for row in self._connection.execute(query, (user, chat, before or 2**62))]

    def show(self, update_id: int, chat: int, user: int, messages: Sequence[int]) -> int:
        """Note which messages show the answer to an update, so that after a kill they are edited; the turn's id."""
        with self._connection as connection:
            [[turn]] = connection.execute(
                "INSERT INTO turns (update_id, chat, user, messages) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (update_id) DO UPDATE SET messages = excluded.messages RETURNING id",
                (update_id, chat, user, json.dumps(messages)),
            ).fetchall()
        return int(turn)

    def finish(self, update_id: int, question: str, answer: str, window: Sequence[Turn]) -> None:
        """Keep an answer that has been shown whole, and of the turns before it those of the window alone."""
        with self._connection as connection:
            connection.execute(
                "UPDATE turns SET question = ?, answer = ? WHERE update_id = ?", (question, answer, update_id)
            )
            oldest = window[0].id if window else None
            connection.execute(
                "DELETE FROM turns WHERE id < coalesce(?, turns.id + 1) AND update_id <> ? AND (user, chat) = "
                "(SELECT user, chat FROM turns WHERE update_id = ?)",
                (oldest, update_id, update_id),
            )
            connection.execute("INSERT OR IGNORE INTO handled VALUES (?)", (update_id,))

    def handle(self, update_id: int) -> None:
        """Note that an update needs nothing more; a turn that it has begun without an answer goes."""
        with self._connection as connection:
            connection.execute("DELETE FROM turns WHERE update_id = ? AND answer IS NULL", (update_id,))
            connection.execute("INSERT OR IGNORE INTO handled VALUES (?)", (update_id,))

    def is_handled(self, update_id: int) -> bool:
        """Whether an update needs nothing more."""
        return bool(self._connection.execute("SELECT 1 FROM handled WHERE update_id = ?", (update_id,)).fetchone())

    def secure(self) -> None:
        """Put everything on the disk itself, so that Telegram may forget what has been handled."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def forget_handled(self, below: int) -> None:
        """Forget the updates that Telegram will not deliver again."""
        with self._connection as connection:
            connection.execute("DELETE FROM handled WHERE update_id < ?", (below,))

    def reset(self, chat: int, user: int) -> None:
        """Delete the conversation of a user in a chat."""
        with self._connection as connection:
            connection.execute("DELETE FROM turns WHERE user = ? AND chat = ?", (user, chat))

    def replace(self, turn: Turn, answer: str, system: str | None) -> None:
        """Keep another answer in place of a turn's, and the pair of both as feedback."""
        self._keep_feedback(turn._replace(answer=answer, rejected=turn.answer, liked=None), system)

    def vote(self, turn: Turn, liked: bool, system: str | None) -> None:
        """Keep a user's vote on an answer."""
        self._keep_feedback(turn._replace(liked=liked), system)

    def forget(self, user: int) -> None:
        """Delete everything of a user: no byte is left in the database, its -wal, free pages or the feedback.

        TimeoutError where another program reads the database and holds the -wal.
        """
        with self._connection as connection:
            connection.execute("DELETE FROM turns WHERE user = ?", (user,))
            connection.execute("DELETE FROM feedback WHERE user = ?", (user,))
        self._write_feedback()
        self._connection.execute("VACUUM")
        busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise TimeoutError("the -wal is in use")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _keep_feedback(self, turn: Turn, system: str | None) -> None:
        row = feedback_row(turn, self.history(turn.chat, turn.user, before=turn.id), system)
        judged = (turn.answer, turn.rejected, turn.liked, turn.id)
        with self._connection as connection:
            connection.execute("UPDATE turns SET answer = ?, rejected = ?, liked = ? WHERE id = ?", judged)
            values = (turn.id, turn.user, json.dumps(row, ensure_ascii=False))
            connection.execute("INSERT OR REPLACE INTO feedback VALUES (?, ?, ?)", values)
        self._write_feedback()

    def _write_feedback(self) -> None:
        """Write the file anew: it has nothing that the database has not."""
        aside = self.folder / f".{FEEDBACK}.partial"  # always this name: what a kill leaves is replaced
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for (row,) in self._connection.execute("SELECT row FROM feedback ORDER BY turn"))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.folder / FEEDBACK)


def feedback_row(turn: Turn, earlier: Sequence[Turn], system: str | None) -> dict[str, Any]:
    """OpenAI's preference row where both answers are known; else the conversation with `liked`."""
    messages = conversation(earlier, turn.question)
    if system:
        messages.insert(0, {"role": "system", "content": system})
    answer: Message = {"role": "assistant", "content": turn.answer}
    if turn.rejected is None or turn.liked is False:
        return {"messages": [*messages, answer], "liked": bool(turn.liked)}
    rejected: Message = {"role": "assistant", "content": turn.rejected}
    return {"input": {"messages": messages}, "preferred_output": [answer], "non_preferred_output": [rejected]}


def conversation(earlier: Sequence[Turn], question: str) -> list[Message]:
    """The messages that ask the question after the earlier turns."""
    messages: list[Message] = []
    for turn in earlier:
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return [*messages, {"role": "user", "content": question}]


def _turn(row: Any) -> Turn:
    id_, update, chat, user, messages, question, answer, rejected, liked = row
    vote = None if liked is None else bool(liked)
    return Turn(id_, update, chat, user, json.loads(messages), question or "", answer or "", rejected, vote)
