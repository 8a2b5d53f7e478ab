"""Sorts one chat's messages into sessions.

A reply belongs to the session of the message that it answers, any other message to the talk that goes on in its topic,
unless that has been quiet for longer than the gap.
"""

import sys
from dataclasses import dataclass

from train.chats.telegram.export import Message


@dataclass(slots=True)
class Said:
    """A message in its session; without text where it is left out, but may be answered."""

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
        self.sessions: list[list[Said]] = []
        self._gap = gap  # seconds
        self._last: list[int] = []  # time of each session's last message
        self._said: dict[int, Said] = {}
        self._topics: set[int] = set()
        self._going_on: dict[int | None, int] = {}  # each topic's session that a message without a reply joins
        self._people: set[str | None] = set()

    def open_topic(self, id_: int) -> None:
        self._topics.add(id_)

    def add(self, message: Message, *, by_person: bool, keep: bool) -> bool:
        """Whether the message is new; a second one of the same id is a newer edit at most.

        One that is not kept has its place all the same, so that answers to it find theirs. What bots say keeps no
        session alive.
        """
        known = self._said.get(message.id) if message.id is not None else None
        if known is not None:
            if known.utf8 and keep and message.edited >= known.edited:
                known.utf8, known.edited = message.text.encode(errors="replace"), message.edited
            return False
        topic, session = self._place(message)
        if by_person:
            self._last[session] = max(self._last[session], message.time)
            self._people.add(message.sender)
        sender = sys.intern(message.sender or "")  # one string a person, however many messages
        utf8 = message.text.encode(errors="replace") if keep else b""
        said = Said(sender, message.time, message.zone, message.edited, utf8, session, topic)
        if message.id is not None:
            self._said[message.id] = said
        if keep:
            self.sessions[session].append(said)
        return True

    def _place(self, message: Message) -> tuple[int | None, int]:
        """(topic, session) of a new message."""
        answered = self._said.get(message.reply_to) if message.reply_to is not None else None
        topic = answered.topic if answered else message.reply_to if message.reply_to in self._topics else None
        session = self._going_on.get(topic)
        quiet = session is None or message.time - self._last[session] > self._gap
        if answered is not None:
            if quiet or len(self._people) <= 2:  # in a group the others go on with their own talk
                self._going_on[topic] = answered.session
            return topic, answered.session
        if session is None or quiet:
            session = self._going_on[topic] = len(self.sessions)
            self.sessions.append([])
            self._last.append(message.time)
        return topic, session
