"""Sorts one chat's messages into sessions.

A reply belongs to the session of the message that it answers, any other message to the talk that goes on in its topic,
unless that has been quiet for longer than the gap.
"""

import sys
from dataclasses import dataclass

from train.chats.telegram.export import TelegramMessage


@dataclass(slots=True)
class SessionMessage:
    """A message in its session; one that is left out has no text, but other messages may answer it."""

    sender: str
    time: int
    zone: int
    edited: int
    utf8: bytes
    """The text; a str of it takes twice the memory, with an emoji in it four times."""
    session: int
    topic: int | None

    @property
    def text(self) -> str:
        return self.utf8.decode()


class Sessions:
    """One chat's messages, sorted into sessions in the order of the file."""

    def __init__(self, gap: float) -> None:
        self.sessions: list[list[SessionMessage]] = []
        self._gap = gap  # seconds
        self._last: list[int] = []  # time of each session's last message
        self._messages: dict[int, SessionMessage] = {}
        self._topics: set[int] = set()
        self._current_sessions: dict[int | None, int] = {}  # each topic's session that a message without a reply joins
        self._people: set[str | None] = set()

    def open_topic(self, id_: int) -> None:
        """From here on the messages that answer this one belong to a topic of their own."""
        self._topics.add(id_)

    def add(self, message: TelegramMessage, *, by_person: bool, keep: bool) -> bool:
        """Add a message and return whether it is new; a second one of the same id can only be a newer edit.

        A message without `keep` is left out of its session, but has a place in it, so that answers to it find theirs.
        Messages of bots (not `by_person`) keep no session alive.
        """
        earlier = self._messages.get(message.id) if message.id is not None else None
        if earlier is not None:
            if earlier.utf8 and keep and message.edited >= earlier.edited:
                earlier.utf8, earlier.edited = message.text.encode(errors="replace"), message.edited
            return False
        topic, session = self._place(message)
        if by_person:
            self._last[session] = max(self._last[session], message.time)
            self._people.add(message.sender)
        sender = sys.intern(message.sender or "")  # one string a person, however many messages
        utf8 = message.text.encode(errors="replace") if keep else b""
        session_message = SessionMessage(sender, message.time, message.zone, message.edited, utf8, session, topic)
        if message.id is not None:
            self._messages[message.id] = session_message
        if keep:
            self.sessions[session].append(session_message)
        return True

    def _place(self, message: TelegramMessage) -> tuple[int | None, int]:
        """(topic, session) of a new message."""
        answered = self._messages.get(message.reply_to) if message.reply_to is not None else None
        topic = answered.topic if answered else message.reply_to if message.reply_to in self._topics else None
        session = self._current_sessions.get(topic)
        quiet = session is None or message.time - self._last[session] > self._gap
        if answered is not None:
            if quiet or len(self._people) <= 2:  # in a group the others go on with their own talk
                self._current_sessions[topic] = answered.session
            return topic, answered.session
        if session is None or quiet:
            session = self._current_sessions[topic] = len(self.sessions)
            self.sessions.append([])
            self._last.append(message.time)
        return topic, session
