"""Sorts one chat's messages into sessions.

A message belongs to the talk that goes on in its topic, unless that has been quiet for longer than the gap; between two
people the answer to what was said last may take longer. A reply of the persona belongs to the session of the message
that it answers, and what she adds at once goes with it.
"""

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from train.chats.messages import ChatMessage

TOPIC_ANSWERS, TOPIC_SHARE = 20, 0.3
"""So many answers, and such a share of a group's messages, to one that the export does not hold: it heads a topic."""


@dataclass(slots=True)
class SessionMessage:
    """A message in its session, also one that no dialogue can hold: whatever follows it does not follow another."""

    sender: str
    time: int
    zone: int
    edited: int
    utf8: bytes
    """The text; a str of it takes twice the memory, with an emoji in it four times."""
    session: int
    topic: int | None
    left_out: str | None
    """Why it is no turn of a dialogue; None if it is one."""
    spoken: bool
    """Whether the text is the sender's own words: not forwarded, nor a label for what was sent instead of words."""
    answered: "SessionMessage | None"
    """The message that it answers by a reply."""
    answered_id: int | None
    """The id of the message that it answers where the export does not hold that one."""
    unclear: bool
    """Whether it may add to a reply of the persona's or answer what somebody has said in another session."""

    @property
    def text(self) -> str:
        return self.utf8.decode()


class Sessions:
    """One chat's messages, sorted into sessions in the order of the file."""

    def __init__(self, gap: float, answer_within: float = 0.0, persona: Collection[str] = ()) -> None:
        """`gap`, `answer_within`: seconds. Within the latter an answer of the persona joins what it answers."""
        self.sessions: list[list[SessionMessage]] = []
        self._gap, self._answer_within, self._persona = gap, answer_within, persona
        self._last: list[int] = []  # time of each session's last message
        self._messages: dict[int, SessionMessage] = {}
        self._topics: set[int] = set()
        self._absent: Counter[int] = Counter()  # answers to each message that the export does not hold
        self._current_sessions: dict[int | None, int] = {}  # each topic's session that a message without a reply joins
        self._people: set[str | None] = set()
        self._is_group = not answer_within
        self._count = 0
        self._latest: dict[int | None, SessionMessage] = {}  # each topic's last message of a person

    def open_topic(self, id_: int) -> None:
        """From here on the messages that answer this one belong to a topic of their own."""
        self._topics.add(id_)

    def answers_what_is_not_here(self, message: SessionMessage) -> bool:
        """Whether the message answers one that the export does not hold; a topic's head is no such message."""
        if message.answered_id is None:
            return False
        answers = self._absent[message.answered_id]
        heads_a_topic = answers >= max(TOPIC_ANSWERS, TOPIC_SHARE * self._count)
        return not (heads_a_topic and self._is_group)

    def add(self, message: ChatMessage, *, by_person: bool, left_out: str | None = None) -> bool:
        """Add a message and return whether it is new; a second one of the same id can only be a newer edit.

        Messages of bots (not `by_person`) keep no session alive.
        """
        earlier = self._messages.get(message.id) if message.id is not None else None
        if earlier is not None:
            if earlier.utf8 and left_out is None and message.edited >= earlier.edited:
                earlier.utf8, earlier.edited = message.text.encode(errors="replace"), message.edited
            return False
        answered = self._messages.get(message.reply_to) if message.reply_to is not None else None
        topic, session = self._place(message, answered)
        unclear = answered is None and self._is_unclear(message, topic)
        self._count += 1
        if by_person:
            self._last[session] = max(self._last[session], message.time)
            self._people.add(message.sender)
        absent = message.answers_elsewhere or (
            message.reply_to is not None and answered is None and message.reply_to not in self._topics
        )
        answered_id = (message.reply_to if message.reply_to is not None else -1) if absent else None
        if absent and message.reply_to is not None and not message.answers_elsewhere:
            self._absent[message.reply_to] += 1
        sender = sys.intern(message.sender or "")  # one string a person, however many messages
        utf8 = message.text.encode(errors="replace") if left_out is None else b""
        session_message = SessionMessage(
            sender, message.time, message.zone, message.edited, utf8, session, topic,
            left_out, message.spoken, answered, answered_id, unclear,
        )  # fmt: skip
        if message.id is not None:
            self._messages[message.id] = session_message
        self.sessions[session].append(session_message)
        if by_person:
            self._latest[topic] = session_message
        return True

    def _place(self, message: ChatMessage, answered: SessionMessage | None) -> tuple[int | None, int]:
        """(topic, session) of a new message."""
        topic = answered.topic if answered else message.reply_to if message.reply_to in self._topics else None
        session = self._current_sessions.get(topic)
        quiet = session is None or message.time - self._last[session] > self._gap
        if answered is not None and message.sender in self._persona:
            if quiet or len(self._people) <= 2:  # in a group the others go on with their own talk
                self._current_sessions[topic] = answered.session
            return topic, answered.session
        latest = self._latest.get(topic)
        if latest and self._says_more(message, latest):
            return topic, latest.session
        if quiet and session is not None and self._is_awaited(message, session):
            quiet = False
        if session is None or quiet:
            session = self._current_sessions[topic] = len(self.sessions)
            self.sessions.append([])
            self._last.append(message.time)
        return topic, session

    def _says_more(self, message: ChatMessage, latest: SessionMessage) -> bool:
        """Whether the persona adds to what she has just said."""
        hers = message.sender in self._persona and latest.sender in self._persona
        return hers and message.time - latest.time <= self._gap

    def _is_unclear(self, message: ChatMessage, topic: int | None) -> bool:
        """Whether the persona may add to a reply of hers, or answer what somebody has said in another session."""
        latest, current = self._latest.get(topic), self._current_sessions.get(topic)
        if latest is None or current is None or latest.session == current or not self._says_more(message, latest):
            return False
        last = self.sessions[current][-1:]
        return bool(last) and last[0].sender not in self._persona

    def _is_awaited(self, message: ChatMessage, session: int) -> bool:
        """Whether it is the persona's answer, in time, to somebody who has spoken last."""
        last = self.sessions[session][-1:]
        in_time = message.time - self._last[session] <= self._answer_within
        return in_time and message.sender in self._persona and bool(last) and last[0].sender not in self._persona
