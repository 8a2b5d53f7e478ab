"""From exports of chats to one person's dialogues and training rows.

An answer of the persona belongs to what it follows or answers by a reply, see exchanges.py. A stretch of a session that
has no hole in it is a dialogue; a dialogue is a row, or several where it is long, each of which repeats the end of the
one before. Where two exchanges are too long to stand in one row, a new dialogue begins.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from itertools import groupby, pairwise
from typing import NamedTuple

from train.chats.chat_exports import read_export
from train.chats.messages import PRIVATE, Chat, ChatMessage
from train.chats.rows import Message, Row
from train.chats.telegram.compressed_list import CompressedList
from train.chats.telegram.exchanges import Exchange, pair
from train.chats.telegram.participants import Participant, Survey
from train.chats.telegram.sessions import SessionMessage, Sessions
from train.core.errors import GovorError

GAP_HOURS = 6.0
ANSWER_WITHIN = 36.0  # hours
MAX_TURNS = 40  # messages of a row, its system message not counted
MAX_CHARS = 4000  # of a row: about 1,500 tokens of Russian; also of what others say before one answer

NO_PART = ("service", "outside_dates", "other_branch")
"""Reasons of messages that do not stand between others."""

Scrub = Callable[[str], str]
Pair = tuple[str, str, bool]
"""(what the others say, what the persona answers, whether that is trained)."""


class Turn(NamedTuple):
    """One message of a dialogue."""

    speaker: str
    role: str
    """`assistant` for the persona, `user` for anybody else."""
    text: str
    time: str
    """ISO date with the zone of the computer that made the export."""
    trained: bool = True
    """Whether it may be learned: not so what the persona forwarded, or a label for what she sent without words."""


class Speaker(NamedTuple):
    """A participant of one dialogue."""

    label: str
    role: str
    """`persona` or `other`."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation that begins with somebody else's message and ends with an answer of the persona."""

    channel: str
    chat_type: str
    date: str
    participants: list[Speaker]
    turns: list[Turn]


@dataclass
class CollectReport:
    """What became of every message: messages_read == messages_kept + sum(dropped)."""

    channels: int = 0
    messages_read: int = 0
    messages_kept: int = 0
    dialogues: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages left out, by reason.

    Of a message alone: service, call, unsupported, bot, media_without_text, empty, sender_unknown, duplicate (the same
    id again), outside_dates, leave_out (it has one of the words), deleted, other_branch (of a talk with ChatGPT).
    Of an answer: answer_to_media, answer_to_call, answer_to_left_out (for another reason), answer_to_absent (the export
    does not hold what it answers), answer_unclear (it may add to a reply or answer what was said since), second_answer
    (to a message that was answered long before), after_own_media, nothing_to_answer: the persona speaks before anybody
    else.
    Of what others say: persona_silent: she says nothing in the session; answered_without_words; after_last_answer;
    long_before_answer: others said more than MAX_CHARS since.
    over_chat_limit: there were more exchanges in the chat than wanted.
    """
    by_channel: dict[str, Counter[str]] = field(default_factory=dict)
    """For each channel its `dialogues`, `rows` and `messages` that were kept."""

    @property
    def share_kept(self) -> float:
        return self.messages_kept / self.messages_read if self.messages_read else 0.0


class Collected(NamedTuple):
    """What `collect_dialogues` makes of exports."""

    rows: Sequence[Row]
    """Rows with line numbers from 1. They and the dialogues are compressed: a list would take as much as the export."""
    dialogues: Sequence[Dialogue]
    report: CollectReport


class Selection(NamedTuple):
    """Which messages are wanted, and how they are told apart."""

    gap_hours: float = GAP_HOURS
    """Silence after which a new dialogue begins."""
    answer_within: float = ANSWER_WITHIN
    """Hours within which, between two people, an answer is an answer also after a longer silence."""
    media_labels: bool = False
    """Whether what was sent without words stands as `[голосовое]`, `[фото]`, …, never trained."""
    since: date | None = None
    until: date | None = None
    """The last day, inclusive, by the clock of the exporting computer."""
    leave_out: Callable[[str], bool] | None = None
    """Tells messages that are not wanted by their text."""
    most_exchanges: int | None = None
    """How many exchanges of a chat are taken, the latest first."""


DEFAULT = Selection()


def collect_dialogues(
    survey: Survey,
    persona: Sequence[Participant],
    selection: Selection = DEFAULT,
    *,
    scrub: Scrub | None = None,
    before_chat: Callable[[int], None] | None = None,
    system: str | None = None,
) -> Collected:
    """The persona's dialogues in the surveyed exports, and the rows that teach them.

    `persona`: her accounts. `scrub` is applied to every message and to the names of groups; with it people get labels
    (persona, other-7) that are the same in all dialogues. `before_chat` is called with a chat's number in the survey
    before its messages are scrubbed. `system` is the first message of every row.
    """
    for value, name in ((selection.gap_hours, "a gap"), (selection.answer_within, "answers within")):
        if not value > 0:
            raise GovorError(f"{name} of {value:g} hours: it must be above 0")
    ids = frozenset(account.id for account in persona)
    chats = frozenset[int]().union(*(account.chats for account in persona))
    builder = _DialogueBuilder(ids, _labels(survey, persona, named=scrub is None), scrub, system, selection)
    report = builder.report
    seen: dict[tuple[str, int | str | None], set[int]] = {}
    for export in survey.exports:
        reader: _ChatReader | None = None
        for item in read_export(export):
            if reader is None:
                chat = survey.chats[report.channels]
                chat_key = chat.type, chat.name if chat.id is None else chat.id
                known = seen.setdefault(chat_key, set()) if len(survey.exports) > 1 else None
                reader = _ChatReader(chat, ids, survey.bots - ids, selection, known, report.dropped)
            if isinstance(item, Chat):
                if before_chat is not None and report.channels in chats:
                    before_chat(report.channels)
                builder.add_chat(item, reader.sessions)
                report.channels, reader = report.channels + 1, None
            else:
                report.messages_read += 1
                reader.read(item, wanted=report.channels in chats)
    report.dialogues, report.rows = len(builder.dialogues), len(builder.rows)
    return Collected(builder.rows, builder.dialogues, report)


class _ChatReader:
    """Sorts a chat's messages into sessions and counts those that cannot be turns."""

    def __init__(
        self,
        chat: Chat,
        persona: Collection[str],
        bots: Collection[str],
        selection: Selection,
        seen: set[int] | None,
        dropped: Counter[str],
    ) -> None:
        """`seen`: keys of the chat's messages in exports read before."""
        within = selection.answer_within * 3600 if chat.type in PRIVATE else 0.0
        self.sessions = Sessions(selection.gap_hours * 3600, within, persona)
        self._bots, self._selection, self._dropped = bots, selection, dropped
        self._before = frozenset(seen or ())
        self._seen = seen

    def read(self, message: ChatMessage, *, wanted: bool) -> None:
        """Take a message in; `wanted`: whether the persona writes in the chat at all."""
        by_person = message.sender is not None and message.sender not in self._bots
        reason = message.drop_reason or (None if by_person else "bot")
        if not wanted:
            self._dropped[reason or "persona_silent"] += 1
            return
        reason = reason or self._unwanted(message)
        message = self._labelled(message) if reason == "media_without_text" else message
        reason = None if message.text and reason == "media_without_text" else reason
        if self._seen is not None:
            if self._key(message) in self._before:
                self._dropped["duplicate"] += 1
                if message.drop_reason != "service":  # what follows it does not follow what stood before it
                    self.sessions.add(message._replace(id=None), by_person=by_person, left_out="duplicate")
                return
            self._seen.add(self._key(message))
        if message.opens_topic and message.id is not None:
            self.sessions.open_topic(message.id)
        elif reason not in NO_PART:
            # what somebody sends through a bot is a message of theirs, and none that can be read
            left_out = "via_bot" if reason == "bot" and message.drop_reason == "bot" else reason
            if not self.sessions.add(message, by_person=by_person, left_out=left_out):
                reason = "duplicate"
        if reason is not None:
            self._dropped[reason] += 1

    def _key(self, message: ChatMessage) -> int:
        """Tells a message of a chat from others: in private chats every account counts its messages by itself."""
        return hash((message.id, message.time, message.sender, message.text if message.id is None else ""))

    def _unwanted(self, message: ChatMessage) -> str | None:
        """Why the message is not among those that were asked for."""
        since, until, leave_out = self._selection.since, self._selection.until, self._selection.leave_out
        if since or until:
            day = datetime.fromtimestamp(message.time, _zone(message.zone)).date()
            if (since and day < since) or (until and day > until):
                return "outside_dates"
        return "leave_out" if leave_out is not None and leave_out(message.text) else None

    def _labelled(self, message: ChatMessage) -> ChatMessage:
        """The message with a label for a text, where that is wanted."""
        label = f"[{message.media}]"
        return message._replace(text=label) if self._selection.media_labels and message.media else message


class _DialogueBuilder:
    """Makes dialogues and rows of a chat's sessions and counts what it leaves out."""

    def __init__(
        self,
        persona: Collection[str],
        labels: dict[str, str],
        scrub: Scrub | None,
        system: str | None,
        selection: Selection,
    ) -> None:
        self.report = CollectReport()
        self.dialogues = CompressedList(Dialogue)
        self.rows = CompressedList(Row)
        self._persona, self._labels, self._scrub, self._system = persona, labels, scrub, system
        self._most_exchanges = selection.most_exchanges
        self._taken: Counter[str] = Counter()  # exchanges of each chat

    def add_chat(self, chat: Chat, sessions: Sessions) -> None:
        """Add the dialogues and rows of one chat."""
        partner = self._labels.get(chat.partner) if chat.partner else None
        channel = chat.name or chat.type
        if self._scrub is not None:
            channel = partner or self._scrub(channel)
        stretches = [stretch for session in sessions.sessions for stretch in self._stretches(session, sessions)]
        latest = self._latest(stretches, f"{chat.type} {chat.id}")
        counts = self.report.by_channel.setdefault(channel, Counter())
        for stretch in latest:
            dialogue = self._dialogue(channel, chat.type, stretch)
            self.dialogues.append(dialogue)
            before = len(self.rows)
            for row_messages in _rows(dialogue, self._system):
                self.rows.append(Row(len(self.rows) + 1, row_messages))
            counts.update(dialogues=1, rows=len(self.rows) - before, messages=len(dialogue.turns))
            self.report.messages_kept += len(dialogue.turns)

    def _stretches(self, session: list[SessionMessage], sessions: Sessions) -> Iterator[list[Exchange]]:
        """The session's stretches, scrubbed, without what was said long before an answer.

        One is cut between two exchanges that do not fit in a row together: rows of one dialogue share an exchange, by
        which a split keeps them on one side.
        """
        if self._scrub is not None:
            for message in session:
                if message.left_out is None:
                    message.utf8 = self._scrub(message.text).strip().encode()
                    if not message.utf8:
                        message.left_out = "empty"
                        self.report.dropped["empty"] += 1
        paired = pair(session, self._persona, sessions.answers_what_is_not_here)
        self.report.dropped.update(reason for _, reason in paired.unused)
        for stretch in paired.stretches:
            near = [exchange._replace(question=self._near(exchange.question)) for exchange in stretch]
            cuts = [at for at in range(1, len(near)) if not self._fit_in_a_row(near[at - 1 : at + 1])]
            yield from (near[start:end] for start, end in pairwise([0, *cuts, len(near)]))

    def _near(self, question: list[SessionMessage]) -> list[SessionMessage]:
        """The last of a question's messages, MAX_CHARS of them; one at least."""
        several = len({message.sender for message in question}) > 1  # then each stands behind a name
        near: list[SessionMessage] = []
        size = 0
        for message in reversed(question):
            size += self._length(message, named=several)
            if near and size > MAX_CHARS:
                break
            near.append(message)
        self.report.dropped["long_before_answer"] += len(question) - len(near)
        return near[::-1]

    def _length(self, message: SessionMessage, *, named: bool) -> int:
        """Characters of a message within a row, the line break after it included."""
        return len(message.text) + 1 + (len(self._labels[message.sender]) + 2) * named

    def _fit_in_a_row(self, exchanges: Sequence[Exchange]) -> bool:
        messages = (message for exchange in exchanges for message in (*exchange.question, *exchange.answer))
        return sum(self._length(message, named=True) for message in messages) <= MAX_CHARS

    def _latest(self, stretches: list[list[Exchange]], chat: str) -> list[list[Exchange]]:
        """The latest exchanges of a chat, as many as are wanted of all its exports together."""
        if self._most_exchanges is None:
            return stretches
        room, latest = self._most_exchanges - self._taken[chat], list[list[Exchange]]()
        for stretch in reversed(stretches):
            kept = stretch[max(0, len(stretch) - room) :]
            room -= len(kept)
            dropped = stretch[: len(stretch) - len(kept)]
            self.report.dropped["over_chat_limit"] += sum(len(e.question) + len(e.answer) for e in dropped)
            latest += [kept] if kept else []
        self._taken[chat] = self._most_exchanges - room
        return latest[::-1]

    def _dialogue(self, channel: str, chat_type: str, stretch: list[Exchange]) -> Dialogue:
        turns = []
        for message in (message for exchange in stretch for message in (*exchange.question, *exchange.answer)):
            is_persona = message.sender in self._persona
            time = datetime.fromtimestamp(message.time, _zone(message.zone)).isoformat()
            role, trained = ("assistant", message.spoken) if is_persona else ("user", True)
            turns.append(Turn(self._labels[message.sender], role, message.text, time, trained))
        people = {turn.speaker: "persona" if turn.role == "assistant" else "other" for turn in turns}
        return Dialogue(channel, chat_type, turns[0].time, [Speaker(*item) for item in people.items()], turns)


@cache
def _zone(seconds: int) -> timezone:
    return timezone(timedelta(seconds=seconds)) if seconds else UTC


def _labels(survey: Survey, persona: Sequence[Participant], *, named: bool) -> dict[str, str]:
    """Id → its label in the dialogues: its name, with the id where others have the same name, or other-1, other-2, …"""
    ids = {account.id for account in persona}
    own = "persona"
    if not named:
        labels = {who.id: f"other-{number}" for number, who in enumerate(survey.participants, 1)}
    else:
        names = {who.id: who.names[0] if who.names else who.id for who in survey.participants}
        own = next((names[account.id] for account in persona), own)
        counts = Counter(name for id_, name in names.items() if id_ not in ids) + Counter({own: 1})
        labels = {id_: name if counts[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}
    return {**labels, **dict.fromkeys(ids, labels[persona[0].id] if named else own)}


def _rows(dialogue: Dialogue, system: str | None) -> Iterator[list[Message]]:
    """The dialogue as the messages of one row, or of several where it is long.

    A part after the first repeats the last two turns of the part before, the answer with weight 0, so that nothing is
    trained twice.
    """
    several = len({turn.speaker for turn in dialogue.turns if turn.role == "user"}) > 1
    pairs = list(_pairs(dialogue.turns, several=several))
    for context, own in _parts(pairs):
        if not any(trained for _, _, trained in own):
            continue
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for number, (question, answer, trained) in enumerate(context + own):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            if number < len(context) or not trained:
                messages[-1]["weight"] = 0
        yield messages


def _pairs(turns: Sequence[Turn], *, several: bool) -> Iterator[Pair]:
    """Questions and answers of a dialogue; with `several` people each one's words stand behind the name."""
    question = ""
    for role, group in groupby(turns, key=lambda turn: turn.role):
        said = list(group)
        if role == "assistant":
            yield question, "\n".join(turn.text for turn in said), all(turn.trained for turn in said)
            continue
        runs = [(who, "\n".join(t.text for t in own)) for who, own in groupby(said, key=lambda turn: turn.speaker)]
        question = "\n".join(f"{who}: {text}" if several else text for who, text in runs)


def _parts(pairs: list[Pair]) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """(last pair of the part before, own pairs) of parts within MAX_TURNS and, unless one pair is longer, MAX_CHARS."""
    context: list[Pair] = []
    part: list[Pair] = []
    for own in pairs:
        row = [*context, *part, own]
        if part and (2 * len(row) > MAX_TURNS or _size(row) > MAX_CHARS):
            yield context, part
            context, part = part[-1:], []
        part.append(own)
    if part:
        yield context, part


def _size(pairs: list[Pair]) -> int:
    return sum(len(question) + len(answer) for question, answer, _ in pairs)
